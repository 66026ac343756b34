//! The files of one copying process: opened, mapped, and their pages in the state that the plan asks for.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use thrufs_sys::mapped_io::{Mapping, Span};

use super::case::{Copy, FILE_LEN, Pages, pattern};
use super::finding::{Finding, Stop, evict, open};

pub(crate) struct CopyFiles<'a> {
    pub(crate) plan: &'a Copy,
    /// Index of the file that is written.
    target: usize,
    source: usize,
    pub(crate) target_file: File,
    pub(crate) source_file: File,
    pub(crate) source_map: Mapping,
}

impl<'a> CopyFiles<'a> {
    pub(crate) fn open(files: &[PathBuf; 2], plan: &'a Copy, target: usize) -> Result<Self, Stop> {
        let source = if plan.source_is_other_file {
            1 - target
        } else {
            target
        };
        let (target_file, source_file) = (open(&files[target])?, open(&files[source])?);
        let source_map =
            Mapping::of_file(&source_file, FILE_LEN, true, true).map_err(Stop::refused("mmap"))?;
        Ok(Self {
            plan,
            target,
            source,
            target_file,
            source_file,
            source_map,
        })
    }

    pub(crate) fn spans(&self) -> Result<Vec<Span<'_>>, Stop> {
        let spans = self.plan.source.iter();
        spans
            .map(|&(offset, len)| self.source_map.span(offset..offset + len))
            .collect::<io::Result<_>>()
            .map_err(Stop::at("span"))
    }

    /// Brings the source's pages into the state that the plan asks for.
    pub(crate) fn prepare(&self) -> Result<(), Stop> {
        let all = self
            .source_map
            .span(0..FILE_LEN)
            .map_err(Stop::at("span"))?;
        if self.plan.pages == Pages::Present {
            for span in self.spans()? {
                span.load().map_err(Stop::at("load"))?;
            }
            return Ok(());
        }
        all.forget_pages().map_err(Stop::at("madvise"))?;
        match self.plan.pages {
            Pages::Present | Pages::NotMapped => Ok(()),
            Pages::NotCached => self.evict(),
            Pages::DropCaches => fs::write("/proc/sys/vm/drop_caches", "1").map_err(|error| {
                Stop::Finding(Finding::Lacks(format!("drop_caches needs root: {error}")))
            }),
        }
    }

    pub(crate) fn evict(&self) -> Result<(), Stop> {
        for file in [&self.source_file, &self.target_file] {
            evict(file)?;
        }
        Ok(())
    }

    pub(crate) fn length(&self) -> usize {
        self.plan.source.iter().map(|(_, len)| len).sum()
    }

    pub(crate) fn expected(&self) -> Vec<u8> {
        let mut content: Vec<u8> = (0..FILE_LEN).map(|at| pattern(self.target, at)).collect();
        let source = self
            .plan
            .source
            .iter()
            .flat_map(|&(offset, len)| offset..offset + len);
        for (index, offset) in source.enumerate() {
            content[self.plan.target + index] = pattern(self.source, offset);
        }
        content
    }
}
