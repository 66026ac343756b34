//! Executable specification of the FUSE write rules and of the page-lock protocols of the seeds.
