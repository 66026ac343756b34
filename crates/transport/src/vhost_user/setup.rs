//! What a front end has set up, so that the next server can be told the same.
//!
//! Invariant: it follows the messages that were handled with success, and nothing else. Said again in the order of
//! [`Setup::messages`] they lead to the same state, whatever order they came in.

use std::io;

use super::message::Message;

/// What was left is not what a server wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what the server that died has left of its front end is damaged: {0}")]
pub struct Damaged(pub(super) &'static str);

impl From<Damaged> for io::Error {
    fn from(damaged: Damaged) -> Self {
        Self::new(io::ErrorKind::InvalidData, damaged)
    }
}

/// Memory regions at most: what the device says to GET_MAX_MEM_SLOTS.
pub(super) const REGIONS_MAX: usize = 509;
/// Descriptors of one message at most, and so regions of a SET_MEM_TABLE.
pub(super) const FILES_MAX: usize = 32;
/// Queues at most.
pub(super) const QUEUES_MAX: usize = super::offer::REQUEST_QUEUES_MAX + 1;

const REGION: usize = 5;
const QUEUE: usize = 12;
const HEADER: usize = 6;
/// Words of all that is set up.
pub(super) const WORDS: usize = HEADER + REGIONS_MAX * REGION + QUEUES_MAX * QUEUE + 1;
const SUM: usize = WORDS - 1;

/// The messages that set something up.
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const RESET_OWNER: u32 = 4;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const SET_VRING_ERR: u32 = 14;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_VRING_ENABLE: u32 = 18;
const ADD_MEM_REG: u32 = 37;
const REM_MEM_REG: u32 = 38;
/// Upon which the crate vhost looks at what was offered.
const GET_FEATURES: u32 = 1;
const GET_PROTOCOL_FEATURES: u32 = 15;

/// Of a SET_VRING_KICK, _CALL or _ERR: no descriptor comes along.
const NO_FILE: u64 = 0x100;

/// How many descriptors come with `message`.
pub(super) fn files_of(message: &Message) -> usize {
    match message.request {
        SET_MEM_TABLE => message.u32(0).map_or(0, |count| count as usize),
        SET_VRING_KICK | SET_VRING_CALL | SET_VRING_ERR => {
            usize::from(message.u64(0).is_some_and(|value| value & NO_FILE == 0))
        }
        ADD_MEM_REG => 1,
        _none => 0,
    }
}

/// What came with a SET_VRING_KICK, _CALL or _ERR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Event {
    /// The message did not come.
    #[default]
    Unset,
    /// It came without a descriptor.
    None,
    /// This one.
    Fd(i32),
}

impl Event {
    fn to_word(self) -> u64 {
        match self {
            Self::Unset => 0,
            Self::None => 1,
            Self::Fd(number) => u64::from(number.cast_unsigned()) + 2,
        }
    }

    fn from_word(word: u64) -> Result<Self, Damaged> {
        match word {
            0 => Ok(Self::Unset),
            1 => Ok(Self::None),
            more => i32::try_from(more - 2)
                .map(Self::Fd)
                .map_err(|_| Damaged("a descriptor has no number")),
        }
    }

    fn number(self) -> Option<i32> {
        match self {
            Self::Fd(number) => Some(number),
            Self::Unset | Self::None => None,
        }
    }
}

/// A memory region: its address in the guest, its size, its address in the front end, its offset in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Region {
    values: [u64; 4],
    file: i32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct QueueSetup {
    num: Option<u32>,
    base: Option<u32>,
    is_enabled: Option<bool>,
    /// Flags; descriptors, used ring, available ring, log.
    addresses: Option<(u32, [u64; 4])>,
    kick: Event,
    call: Event,
    error: Event,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setup {
    is_owned: bool,
    features: Option<u64>,
    protocol: Option<u64>,
    regions: Vec<Region>,
    queues: Vec<QueueSetup>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            is_owned: false,
            features: None,
            protocol: None,
            regions: Vec::new(),
            queues: vec![QueueSetup::default(); QUEUES_MAX],
        }
    }
}

impl Setup {
    /// `message`, which came with `files`, was handled.
    pub(super) fn note(&mut self, message: &Message, files: &[i32], reply: &[u8]) {
        // The handler has refused what has not the length that its kind has.
        let _noted = self.try_note(message, files, reply);
    }

    fn try_note(&mut self, message: &Message, files: &[i32], reply: &[u8]) -> Option<()> {
        match message.request {
            SET_OWNER => self.is_owned = true,
            RESET_OWNER => (self.is_owned, self.features, self.protocol) = (false, None, None),
            SET_FEATURES => self.features = Some(message.u64(0)?),
            SET_PROTOCOL_FEATURES => self.protocol = Some(message.u64(0)?),
            SET_MEM_TABLE => {
                let region = |(at, file): (usize, &i32)| region(message, 8 + 32 * at, *file);
                self.regions = files
                    .iter()
                    .enumerate()
                    .map(region)
                    .collect::<Option<_>>()?;
            }
            ADD_MEM_REG => self.regions.push(region(message, 8, *files.first()?)?),
            REM_MEM_REG => {
                let guest = message.u64(8)?;
                self.regions.retain(|region| region.values[0] != guest);
            }
            SET_VRING_KICK | SET_VRING_CALL | SET_VRING_ERR => {
                let value = message.u64(0)?;
                let event = match files.first() {
                    Some(number) if value & NO_FILE == 0 => Event::Fd(*number),
                    _polled => Event::None,
                };
                let queue = self.queues.get_mut(usize::from(value as u8))?;
                match message.request {
                    SET_VRING_KICK => queue.kick = event,
                    SET_VRING_CALL => queue.call = event,
                    _error => queue.error = event,
                }
            }
            SET_VRING_NUM | SET_VRING_ADDR | SET_VRING_BASE | GET_VRING_BASE | SET_VRING_ENABLE => {
                let queue = self.queues.get_mut(message.u32(0)? as usize)?;
                let value = message.u32(4)?;
                match message.request {
                    SET_VRING_NUM => queue.num = Some(value),
                    SET_VRING_BASE => queue.base = Some(value),
                    SET_VRING_ENABLE => queue.is_enabled = Some(value == 1),
                    GET_VRING_BASE => {
                        let base = reply.get(16..)?.first_chunk().copied()?;
                        queue.base = Some(u32::from_ne_bytes(base));
                        (queue.kick, queue.call) = (Event::Unset, Event::Unset);
                    }
                    _addresses => {
                        let values = [8, 16, 24, 32].map(|at| message.u64(at));
                        let [Some(a), Some(b), Some(c), Some(d)] = values else {
                            return None;
                        };
                        queue.addresses = Some((value, [a, b, c, d]));
                    }
                }
            }
            _asks => {}
        }
        Some(())
    }

    /// The numbers of all descriptors that came along.
    pub(super) fn files(&self) -> Vec<i32> {
        let events = self.queues.iter().flat_map(|queue| {
            let all = [queue.kick, queue.call, queue.error];
            all.into_iter().filter_map(Event::number)
        });
        let regions = self.regions.iter().map(|region| region.file);
        regions.chain(events).collect()
    }

    /// What leads to the same state, with the descriptors that come along.
    pub(super) fn messages(&self) -> Vec<(Message, Vec<i32>)> {
        let mut all = Vec::new();
        let mut say = |request, body: Vec<u8>, files: &[i32]| {
            all.push((Message::new(request, body), files.to_vec()));
        };
        say(GET_FEATURES, Vec::new(), &[]);
        if self.is_owned {
            say(SET_OWNER, Vec::new(), &[]);
        }
        if let Some(protocol) = self.protocol {
            say(GET_PROTOCOL_FEATURES, Vec::new(), &[]);
            say(SET_PROTOCOL_FEATURES, protocol.to_ne_bytes().to_vec(), &[]);
        }
        if let Some(features) = self.features {
            say(SET_FEATURES, features.to_ne_bytes().to_vec(), &[]);
        }
        let (table, added) = self.regions.split_at(self.regions.len().min(FILES_MAX));
        if !table.is_empty() {
            let mut body = (table.len() as u64).to_ne_bytes().to_vec();
            table.iter().for_each(|region| region.push_to(&mut body));
            let files: Vec<i32> = table.iter().map(|region| region.file).collect();
            say(SET_MEM_TABLE, body, &files);
        }
        for region in added {
            let mut body = vec![0; 8];
            region.push_to(&mut body);
            say(ADD_MEM_REG, body, &[region.file]);
        }
        for (index, queue) in (0..).zip(&self.queues) {
            queue.say(index, &mut say);
        }
        all
    }

    /// As words, the last of which is a checksum.
    pub(super) fn to_words(&self) -> Vec<u64> {
        let mut words = vec![0; WORDS];
        words[0] = u64::from(self.is_owned);
        (words[1], words[2]) = maybe(self.features);
        (words[3], words[4]) = maybe(self.protocol);
        words[5] = self.regions.len() as u64;
        let (regions, queues) = words[HEADER..SUM].split_at_mut(REGIONS_MAX * REGION);
        for (to, region) in regions.chunks_mut(REGION).zip(&self.regions) {
            to[..4].copy_from_slice(&region.values);
            to[4] = u64::from(region.file.cast_unsigned());
        }
        for (to, queue) in queues.chunks_mut(QUEUE).zip(&self.queues) {
            to.copy_from_slice(&queue.to_words());
        }
        words[SUM] = sum(&words[..SUM]);
        words
    }

    /// What [`Self::to_words`] gave.
    ///
    /// # Errors
    /// Another process wrote something else.
    pub(super) fn from_words(words: &[u64]) -> Result<Self, Damaged> {
        if words.len() != WORDS || words[SUM] != sum(&words[..SUM]) {
            return Err(Damaged("a checksum is wrong"));
        }
        let count = usize::try_from(words[5]).unwrap_or(usize::MAX);
        if count > REGIONS_MAX {
            return Err(Damaged("there are too many memory regions"));
        }
        let (regions, queues) = words[HEADER..SUM].split_at(REGIONS_MAX * REGION);
        let region = |words: &[u64]| {
            let file = i32::try_from(words[4]);
            Ok(Region {
                values: [words[0], words[1], words[2], words[3]],
                file: file.map_err(|_| Damaged("a descriptor has no number"))?,
            })
        };
        let regions = regions.chunks(REGION).take(count).map(region);
        let queues = queues.chunks(QUEUE).map(QueueSetup::from_words);
        Ok(Self {
            is_owned: words[0] != 0,
            features: (words[1] != 0).then_some(words[2]),
            protocol: (words[3] != 0).then_some(words[4]),
            regions: regions.collect::<Result<_, _>>()?,
            queues: queues.collect::<Result<_, _>>()?,
        })
    }
}

impl Region {
    fn push_to(&self, body: &mut Vec<u8>) {
        body.extend(self.values.iter().flat_map(|value| value.to_ne_bytes()));
    }
}

impl QueueSetup {
    fn say(&self, index: u32, say: &mut impl FnMut(u32, Vec<u8>, &[i32])) {
        let numbers = |value: u32| [index.to_ne_bytes(), value.to_ne_bytes()].concat();
        if let Some(num) = self.num {
            say(SET_VRING_NUM, numbers(num), &[]);
        }
        if let Some(base) = self.base {
            say(SET_VRING_BASE, numbers(base), &[]);
        }
        if let Some((flags, values)) = self.addresses {
            let mut body = numbers(flags);
            body.extend(values.iter().flat_map(|value| value.to_ne_bytes()));
            say(SET_VRING_ADDR, body, &[]);
        }
        let events = [
            (SET_VRING_CALL, self.call),
            (SET_VRING_ERR, self.error),
            (SET_VRING_KICK, self.kick),
        ];
        for (request, event) in events {
            let index = u64::from(index);
            match event {
                Event::Unset => {}
                Event::None => say(request, (index | NO_FILE).to_ne_bytes().to_vec(), &[]),
                Event::Fd(number) => say(request, index.to_ne_bytes().to_vec(), &[number]),
            }
        }
        if let Some(is_enabled) = self.is_enabled {
            say(SET_VRING_ENABLE, numbers(is_enabled.into()), &[]);
        }
    }

    fn to_words(self) -> [u64; QUEUE] {
        let plus_one = |value: Option<u32>| value.map_or(0, |value| u64::from(value) + 1);
        let (flags, [a, b, c, d]) = match self.addresses {
            Some((flags, values)) => (u64::from(flags) + 1, values),
            None => (0, [0; 4]),
        };
        [
            plus_one(self.num),
            plus_one(self.base),
            plus_one(self.is_enabled.map(u32::from)),
            flags,
            a,
            b,
            c,
            d,
            self.kick.to_word(),
            self.call.to_word(),
            self.error.to_word(),
            0,
        ]
    }

    fn from_words(words: &[u64]) -> Result<Self, Damaged> {
        let less_one = |word: u64| match word.checked_sub(1).map(u32::try_from) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(_)) => Err(Damaged("a number of a queue has more than 32 bits")),
        };
        let addresses = [words[4], words[5], words[6], words[7]];
        Ok(Self {
            num: less_one(words[0])?,
            base: less_one(words[1])?,
            is_enabled: less_one(words[2])?.map(|word| word == 1),
            addresses: less_one(words[3])?.map(|flags| (flags, addresses)),
            kick: Event::from_word(words[8])?,
            call: Event::from_word(words[9])?,
            error: Event::from_word(words[10])?,
        })
    }
}

fn region(message: &Message, at: usize, file: i32) -> Option<Region> {
    let values = [0, 8, 16, 24].map(|offset| message.u64(at + offset));
    let [Some(a), Some(b), Some(c), Some(d)] = values else {
        return None;
    };
    let values = [a, b, c, d];
    Some(Region { values, file })
}

fn maybe(value: Option<u64>) -> (u64, u64) {
    (u64::from(value.is_some()), value.unwrap_or_default())
}

fn sum(words: &[u64]) -> u64 {
    words.iter().fold(WORDS as u64, |sum, word| {
        // The multiplier of SplitMix64.
        (sum.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}

#[cfg(test)]
mod tests;
