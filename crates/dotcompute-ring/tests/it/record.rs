//! Record rings in memory of the test. They are laid out byte for byte as documented, rejected when corrupt, and usable after an end, or
//! its whole process, has ended.

use std::ptr::NonNull;

use dotcompute_ring::layout::{CACHE_LINE, Header, MAGIC, VERSION};
use dotcompute_ring::record::{self, Record, RecordError};
use dotcompute_ring::{CapacityError, PushError};
use proptest::prelude::*;

/// Aligned memory, any part of which can be used for a ring.
struct TestMemory {
    lines: Vec<Line>,
}

#[derive(Clone, Copy)]
#[repr(align(128))]
struct Line {
    _bytes: [u8; CACHE_LINE],
}

impl TestMemory {
    fn new(bytes: usize) -> Self {
        Self { lines: vec![Line { _bytes: [0xAB; CACHE_LINE] }; bytes.div_ceil(CACHE_LINE)] }
    }

    fn with_ring<T: Record>(capacity: usize) -> Self {
        let mut memory = Self::new(record::required_bytes::<T>(capacity).unwrap());
        let len = memory.len();
        // SAFETY: the range is all of this memory, and nothing else uses it yet.
        unsafe { record::create::<T>(memory.start(), len, capacity) }.unwrap();
        memory
    }

    fn start(&mut self) -> NonNull<u8> {
        NonNull::new(self.lines.as_mut_ptr()).unwrap().cast()
    }

    fn len(&self) -> usize {
        size_of_val(&self.lines[..])
    }

    fn bytes(&mut self) -> &mut [u8] {
        let len = self.len();
        // SAFETY: the lines are that many bytes, and the slice borrows `self` mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start().as_ptr(), len) }
    }

    fn word(&mut self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.bytes()[offset..][..8].try_into().unwrap())
    }
}

fn attach_error<T: Record>(memory: &mut TestMemory, len: usize) -> RecordError {
    let start = memory.start();
    // SAFETY: the memory outlives this function, and no end is returned from it.
    let (producer, consumer) =
        unsafe { (record::producer::<T>(start, len), record::consumer::<T>(start, len)) };
    let error = producer.expect_err("a producer attached");
    assert_eq!(consumer.expect_err("a consumer attached"), error);
    error
}

#[test]
fn the_memory_layout_is_as_documented() {
    let mut memory = TestMemory::with_ring::<[u32; 5]>(3);
    let (start, len) = (memory.start(), memory.len());
    // SAFETY: the memory outlives the ends, and is read directly only after they are dropped.
    let (mut producer, mut consumer) = unsafe {
        (record::producer::<[u32; 5]>(start, len).unwrap(), record::consumer::<[u32; 5]>(start, len).unwrap())
    };
    for number in 0..4 {
        producer.try_push([number; 5]).unwrap();
    }
    assert_eq!(producer.try_push([9; 5]), Err(PushError::Full([9; 5])));
    assert_eq!(consumer.try_pop(), Some([0; 5]));
    producer.try_push([4; 5]).unwrap();
    drop((producer, consumer));

    // Header: magic, version and stride, capacity, size and offset of the payload.
    assert_eq!(&memory.bytes()[..8], b"DCRING\0\0");
    assert_eq!(memory.word(0), MAGIC);
    assert_eq!(memory.word(8), u64::from(VERSION) | 32 << 32);
    assert_eq!(memory.word(16), 4);
    assert_eq!(memory.word(24), 20 | 8 << 32);
    assert_eq!(size_of::<Header>(), CACHE_LINE);
    // The tail with the closed bit, set by the dropped producer; the head; the flag of the dropped consumer.
    assert_eq!((memory.word(128), memory.word(256), memory.word(384)), (1 << 63 | 5, 1, 1));
    // Slots of 32 bytes: index 4 is in the first slot, one lap after index 0.
    let words = [0, 1, 2, 3].map(|slot| memory.word(512 + slot * 32));
    assert_eq!(words, [5, 2, 3, 4]);
    assert_eq!(memory.word(512 + 8), 4 | 4 << 32);
}

#[test]
fn reattached_ends_continue_where_their_predecessors_stopped() {
    let mut memory = TestMemory::with_ring::<u64>(4);
    let (start, len) = (memory.start(), memory.len());
    let (mut pushed, mut popped) = (0, 0);
    for round in 0..40 {
        // SAFETY: the memory outlives the ends, and there is one of each kind at a time.
        let (mut producer, mut consumer) = unsafe {
            (record::producer::<u64>(start, len).unwrap(), record::consumer::<u64>(start, len).unwrap())
        };
        assert_eq!((producer.pushed(), consumer.popped()), (pushed, popped));
        assert!(!producer.is_closed() && !consumer.is_closed());
        assert_eq!((producer.len() as u64, consumer.len() as u64), (pushed - popped, pushed - popped));
        for _ in 0..round % 5 {
            pushed += u64::from(producer.try_push(pushed).is_ok());
        }
        for _ in 0..round % 4 {
            let expected = (popped < pushed).then_some(popped);
            assert_eq!(consumer.try_pop(), expected);
            popped += u64::from(expected.is_some());
        }
        drop(producer);
        assert_eq!(consumer.is_drained(), popped == pushed);
    }
    assert!(popped > 40, "several times around the ring");
}

#[test]
fn memory_without_a_ring_is_rejected() {
    let mut memory = TestMemory::new(4096);
    let (start, len) = (memory.start(), memory.len());
    assert_eq!(attach_error::<u64>(&mut memory, len), RecordError::BadMagic { found: 0xABAB_ABAB_ABAB_ABAB });
    assert_eq!(attach_error::<u64>(&mut memory, 511), RecordError::TooShort { len: 511, needed: 512 });
    // SAFETY: within the memory, and no end is attached.
    let create =
        |offset: usize, len, capacity| unsafe { record::create::<u64>(start.add(offset), len, capacity) };
    assert_eq!(create(8, 2048, 4), Err(RecordError::Misaligned { offset: 8 }));
    assert_eq!(create(0, 600, 8), Err(RecordError::TooShort { len: 600, needed: 640 }));
    assert_eq!(create(0, len, 0), Err(RecordError::Capacity(CapacityError::Zero)));
    assert!(matches!(create(0, len, usize::MAX), Err(RecordError::Capacity(CapacityError::TooLarge { .. }))));
    assert_eq!(memory.word(0), 0xABAB_ABAB_ABAB_ABAB, "a rejected `create` writes nothing");
}

#[test]
fn a_header_mismatch_is_rejected_by_field_name() {
    let mut memory = TestMemory::with_ring::<u64>(8);
    let len = memory.len();
    let differs = |field, found, expected| RecordError::HeaderMismatch { field, found, expected };
    assert_eq!(attach_error::<u32>(&mut memory, len), differs("payload_size", 8, 4));
    #[derive(Clone, Copy)]
    #[repr(C, align(16))]
    struct Wide([u64; 2]);
    // SAFETY: `repr(C)`, sixteen bytes of numbers aligned to sixteen: no padding.
    unsafe impl Record for Wide {}
    let mut pairs = TestMemory::with_ring::<[u64; 2]>(8);
    let len_of_pairs = pairs.len();
    assert_eq!(attach_error::<Wide>(&mut pairs, len_of_pairs), differs("payload_offset", 8, 16));
    assert_eq!(
        attach_error::<u64>(&mut memory, len - 1),
        RecordError::TooShort { len: len - 1, needed: len }
    );

    for (offset, value, expected) in [
        (0, 0, RecordError::BadMagic { found: MAGIC & !0xFF }),
        (8, 2, differs("version", 2, 1)),
        (12, 17, differs("stride", 17, 16)),
        (16, 7, RecordError::CapacityNotPowerOfTwo { found: 7 }),
        (16, 0, RecordError::CapacityNotPowerOfTwo { found: 0 }),
        (16, 16, RecordError::TooShort { len, needed: len + 8 * 16 }),
        (256 + 7, 0x40, RecordError::HeadOutOfRange { head: 0x40 << 56 }),
    ] {
        let original = std::mem::replace(&mut memory.bytes()[offset], value);
        assert_eq!(attach_error::<u64>(&mut memory, len), expected);
        memory.bytes()[offset] = original;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever bytes are in the control block and the sequence tags, attaching and using the ends does not panic and stays within the
    /// memory. The allocator's checks, Miri and the guard bytes behind the ring detect violations.
    #[test]
    fn a_corrupt_ring_stays_within_its_memory(
        corruption in proptest::collection::vec((0..1024_usize, any::<u8>()), 0..12),
        huge: Option<u64>,
    ) {
        let mut memory = TestMemory::new(2048);
        // SAFETY: the range is the first half of the memory.
        unsafe { record::create::<u64>(memory.start(), 1024, 16) }.unwrap();
        for (offset, value) in corruption {
            memory.bytes()[offset] = value;
        }
        if let Some(capacity) = huge {
            memory.bytes()[16..24].copy_from_slice(&capacity.to_ne_bytes());
        }
        let start = memory.start();
        // SAFETY: the memory outlives the ends, and only they use it.
        unsafe {
            if let Ok(mut producer) = record::producer::<u64>(start, 1024) {
                prop_assert!(producer.len() <= producer.capacity());
                while producer.try_push(7).is_ok() {}
            }
            if let Ok(mut consumer) = record::consumer::<u64>(start, 1024) {
                prop_assert!(consumer.len() <= consumer.capacity());
                for _ in 0..100 {
                    consumer.try_pop();
                }
            }
        }
        prop_assert!(memory.bytes()[1024..].iter().all(|&byte| byte == 0xAB));
    }
}

/// Tests between processes; they need memory that two processes can map.
#[cfg(all(target_os = "linux", feature = "std", not(miri)))]
mod processes {
    use super::*;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    use std::process::{Child, Command, Stdio};
    use std::thread;

    const CAPACITY: usize = 256;
    const PATH: &str = "DOTCOMPUTE_RING_TEST_MEMORY";

    #[derive(Clone, Copy, Debug, PartialEq)]
    #[repr(C)]
    struct Tick {
        sequence: u64,
        values: [f32; 12],
        check: u64,
    }
    // SAFETY: `repr(C)`, 8 + 48 + 8 bytes of numbers: no padding.
    unsafe impl Record for Tick {}

    impl Tick {
        fn new(sequence: u64) -> Self {
            Self { sequence, values: [sequence as f32; 12], check: !sequence }
        }
    }

    struct Mapping {
        start: NonNull<u8>,
        len: usize,
    }

    impl Mapping {
        fn of(file: &impl AsRawFd) -> Self {
            let len = record::required_bytes::<Tick>(CAPACITY).unwrap();
            // SAFETY: a new mapping at an address that the kernel chooses.
            let start = unsafe {
                let access = libc::PROT_READ | libc::PROT_WRITE;
                libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, file.as_raw_fd(), 0)
            };
            assert_ne!(start, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
            Self { start: NonNull::new(start).unwrap().cast(), len }
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: mapped by `of`. The tests declare the ends after the mapping, so every end in it is dropped first.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
        }
    }

    /// Creates an empty ring in a memory file, which can be mapped more than once.
    fn shared_ring() -> OwnedFd {
        // SAFETY: the name ends in a zero byte, and this is the only owner of the new descriptor.
        let file = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"ring".as_ptr(), 0)) };
        let len = record::required_bytes::<Tick>(CAPACITY).unwrap();
        // SAFETY: the arguments are passed by value.
        assert_eq!(unsafe { libc::ftruncate(file.as_raw_fd(), len as libc::off_t) }, 0);
        let mapping = Mapping::of(&file);
        // SAFETY: the mapping has this length, and no other code uses it yet.
        unsafe { record::create::<Tick>(mapping.start, mapping.len, CAPACITY) }.unwrap();
        file
    }

    /// Each thread maps the ring at its own address.
    #[test]
    fn two_mappings_share_one_ring() {
        const COUNT: u64 = 200_000;
        let file = shared_ring();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mapping = Mapping::of(&file);
                // SAFETY: the mapping outlives the end; it is the only producer.
                let mut producer = unsafe { record::producer::<Tick>(mapping.start, mapping.len) }.unwrap();
                for sequence in 0..COUNT {
                    while producer.try_push(Tick::new(sequence)).is_err() {
                        thread::yield_now();
                    }
                }
            });
            let mapping = Mapping::of(&file);
            // SAFETY: the mapping outlives the end; it is the only consumer.
            let mut consumer = unsafe { record::consumer::<Tick>(mapping.start, mapping.len) }.unwrap();
            let mut expected = 0;
            while expected < COUNT {
                match consumer.try_pop() {
                    Some(tick) => {
                        assert_eq!(tick, Tick::new(expected));
                        expected += 1;
                    }
                    None => thread::yield_now(),
                }
            }
        });
    }

    /// A child process that is killed at the latest when its test ends, however it ends.
    struct ProducerProcess(Child);

    impl ProducerProcess {
        fn is_alive(&mut self) -> bool {
            self.0.try_wait().unwrap().is_none()
        }

        fn kill(&mut self) {
            // SIGKILL: the child runs no more code, not even a `Drop`.
            self.0.kill().and_then(|()| self.0.wait()).unwrap();
        }
    }

    impl Drop for ProducerProcess {
        fn drop(&mut self) {
            self.kill();
        }
    }

    #[test]
    #[ignore = "not a test: the next test runs it as another process"]
    fn endless_producer() {
        let path = std::env::var_os(PATH).expect("started by the next test");
        let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        let mapping = Mapping::of(&file);
        // SAFETY: the mapping outlives the end; the other process starts no producer before this one is dead.
        let mut producer = unsafe { record::producer::<Tick>(mapping.start, mapping.len) }.unwrap();
        loop {
            let next = Tick::new(producer.pushed());
            if producer.try_push(next).is_err() {
                thread::yield_now();
            }
        }
    }

    /// The producer's process is killed in the middle of its work, three times; each successor continues with the next record.
    #[test]
    fn a_ring_survives_its_producers_process() {
        let file = shared_ring();
        let mapping = Mapping::of(&file);
        // SAFETY: the mapping outlives the end; the only consumer.
        let mut consumer = unsafe { record::consumer::<Tick>(mapping.start, mapping.len) }.unwrap();
        let mut expected = 0;
        let mut pop_until = |until: u64, more_may_come: &mut dyn FnMut() -> bool| {
            while expected < until {
                match consumer.try_pop() {
                    Some(tick) => {
                        assert_eq!(tick, Tick::new(expected));
                        expected += 1;
                    }
                    None => {
                        assert!(
                            more_may_come(),
                            "record {expected} is missing, and no producer is alive to write it"
                        );
                        thread::yield_now();
                    }
                }
            }
        };
        for generation in 1..=3 {
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--ignored", "--exact", "record::processes::endless_producer"])
                .env(PATH, format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()))
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let mut process = ProducerProcess(child);
            pop_until(generation * 20_000, &mut || process.is_alive());
            process.kill();
        }
        // SAFETY: the mapping outlives the end; the other producers are dead.
        let mut producer = unsafe { record::producer::<Tick>(mapping.start, mapping.len) }.unwrap();
        let published = producer.pushed();
        pop_until(published, &mut || false);
        producer.try_push(Tick::new(published)).unwrap();
        pop_until(published + 1, &mut || false);
    }
}
