//! What the system's page cache is told of files that are read or written once. Only Linux listens.

#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::*;
#[cfg(target_os = "linux")]
pub(crate) use linux::*;

#[cfg(target_os = "linux")]
mod linux {
    use std::{fs::File, io::IoSliceMut, num::NonZeroU64};

    use rustix::{
        fs::{Advice, fadvise},
        io::{Errno, ReadWriteFlags, preadv2},
        system::sysinfo,
    };

    /// Has the system read further ahead. Asking for what comes next (`WILLNEED`) is slower: it
    /// makes pages of the smallest size.
    pub(crate) fn read_far_ahead(file: &File) {
        advise(file, 0, 0, Advice::Sequential);
    }

    /// Has these bytes written to the disk, without waiting for that, if they are not there yet.
    /// Those that are there leave the cache.
    pub(crate) fn write_back_or_drop(file: &File, start: u64, bytes: u64) {
        advise(file, start, bytes, Advice::DontNeed);
    }

    /// Whether a file of so many bytes would push much else out of the cache: half of the memory or
    /// more.
    pub(crate) fn is_large(bytes: u64) -> bool {
        let memory = sysinfo();
        bytes >= (memory.totalram as u64).saturating_mul(u64::from(memory.mem_unit)) / 2
    }

    /// Whether the cache has a file of so many bytes already, judged by some bytes of it. So it is
    /// taken to be where the system can't tell.
    pub(crate) fn is_cached(file: &File, bytes: u64) -> bool {
        const SAMPLES: u64 = 16;
        let is_cached = |offset| {
            let mut byte = [0];
            let mut buffers = [IoSliceMut::new(&mut byte)];
            preadv2(file, &mut buffers, offset, ReadWriteFlags::NOWAIT) != Err(Errno::AGAIN)
        };
        // A sample that is not there would be taken for the start of a long read.
        advise(file, 0, 0, Advice::Random);
        let cached = (1..SAMPLES).all(|sample| is_cached(bytes / SAMPLES * sample));
        advise(file, 0, 0, Advice::Normal);
        cached
    }

    /// Advice that is not taken changes no result.
    fn advise(file: &File, start: u64, bytes: u64, advice: Advice) {
        let _ = fadvise(file, start, NonZeroU64::new(bytes), advice);
    }
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::fs::File;

    pub(crate) fn read_far_ahead(_file: &File) {}

    pub(crate) fn write_back_or_drop(_file: &File, _start: u64, _bytes: u64) {}

    pub(crate) fn is_large(_bytes: u64) -> bool {
        false
    }

    pub(crate) fn is_cached(_file: &File, _bytes: u64) -> bool {
        true
    }
}
