use super::writer::Store;
use super::*;
use proptest::prelude::*;
use std::{collections::BTreeMap, io};

/// Log files in memory, on a disk of so many bytes.
#[derive(Debug, Default)]
struct Memory {
    files: BTreeMap<u64, Vec<u8>>,
    room: Option<usize>,
}

impl Memory {
    fn used(&self) -> usize {
        self.files.values().map(Vec::len).sum()
    }

    fn entries(&self) -> Vec<Entry> {
        let lines = self
            .files
            .values()
            .flat_map(|f| f.split_inclusive(|b| *b == b'\n'));
        lines
            .map(|line| decode(line).expect("a line that can be read"))
            .collect()
    }
}

impl Store for &mut Memory {
    fn begin(&mut self, generation: u64) -> io::Result<()> {
        if let Some(old) = generation.checked_sub(2) {
            self.files.remove(&old);
        }
        self.files.insert(generation, Vec::new());
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let fits = self
            .room
            .map_or(bytes.len(), |room| room.saturating_sub(self.used()));
        let part = &bytes[..bytes.len().min(fits)];
        self.files
            .last_entry()
            .unwrap()
            .get_mut()
            .extend_from_slice(part);
        if part.len() < bytes.len() {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Ok(())
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).unwrap();
        self.files.last_entry().unwrap().get_mut().truncate(length);
        Ok(())
    }
}

fn joined(entries: &[Entry], of: LogStream) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in entries {
        if let Entry::Output(r) = entry
            && r.stream == of
        {
            all.extend_from_slice(&r.data);
        }
    }
    all
}

fn outputs() -> impl Strategy<Value = Vec<(bool, Vec<u8>)>> {
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..80),
        "[a-zäöü\n\r\"\\\\]{1,40}".prop_map(String::into_bytes),
    ];
    prop::collection::vec((any::<bool>(), bytes), 0..30)
}

fn stream_of(out: bool) -> LogStream {
    if out {
        LogStream::Stdout
    } else {
        LogStream::Stderr
    }
}

proptest! {
    #[test]
    fn every_byte_is_kept_in_its_stream_and_order(outputs in outputs()) {
        let mut memory = Memory::default();
        let mut log = LogWriter::with_store(&mut memory, 1 << 20).unwrap();
        for (out, data) in &outputs {
            log.append(Timestamp(7), stream_of(*out), data);
        }
        let entries = memory.entries();
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            let put: Vec<u8> = outputs.iter().filter(|(o, _)| stream_of(*o) == stream).flat_map(|(_, d)| d.clone()).collect();
            prop_assert_eq!(joined(&entries, stream), put);
        }
    }

    #[test]
    fn a_record_continues_exactly_where_its_stream_was_within_a_line(outputs in outputs()) {
        let mut memory = Memory::default();
        let mut log = LogWriter::with_store(&mut memory, 1 << 20).unwrap();
        for (out, data) in &outputs {
            log.append(Timestamp(7), stream_of(*out), data);
        }
        let mut within = BTreeMap::new();
        for entry in memory.entries() {
            let Entry::Output(r) = entry else { panic!("nothing was lost") };
            let key = r.stream == LogStream::Stdout;
            prop_assert_eq!(r.continues, within.get(&key).copied().unwrap_or(false));
            within.insert(key, !r.data.ends_with(b"\n"));
        }
    }

    #[test]
    fn rotation_keeps_the_newest_and_never_more_than_two_files(outputs in outputs(), max in 60u64..600) {
        let mut memory = Memory::default();
        let mut log = LogWriter::with_store(&mut memory, max).unwrap();
        for (_, data) in &outputs {
            log.append(Timestamp(7), LogStream::Stdout, data);
        }
        let position = log.position();
        prop_assert!(memory.files.len() <= 2);
        let (newest, bytes) = memory.files.last_key_value().unwrap();
        prop_assert_eq!((*newest, bytes.len() as u64), (position.generation, position.offset));
        let put: Vec<u8> = outputs.iter().flat_map(|(_, d)| d.clone()).collect();
        prop_assert!(put.ends_with(&joined(&memory.entries(), LogStream::Stdout)));
    }

    #[test]
    fn on_a_full_disk_what_is_lost_is_counted_and_the_rest_can_be_read(
        outputs in outputs(), room in 0usize..2000, more in 400usize..1000
    ) {
        let mut memory = Memory { room: Some(room), ..Memory::default() };
        let mut log = LogWriter::with_store(&mut memory, 1 << 20).unwrap();
        for (out, data) in &outputs {
            log.append(Timestamp(7), stream_of(*out), data);
        }
        log.store_mut().room = Some(room + 4000 + more);
        log.append(Timestamp(8), LogStream::Stdout, b"after\n");
        let entries = memory.entries();
        let kept = joined(&entries, LogStream::Stdout).len() + joined(&entries, LogStream::Stderr).len();
        let lost: u64 = entries.iter().map(|e| match e { Entry::Lost { bytes, .. } => *bytes, Entry::Output(_) => 0 }).sum();
        let put: usize = outputs.iter().map(|(_, d)| d.len()).sum::<usize>() + b"after\n".len();
        prop_assert_eq!(kept as u64 + lost, put as u64);
        prop_assert!(joined(&entries, LogStream::Stdout).ends_with(b"after\n"));
    }

    #[test]
    fn no_line_makes_the_reader_panic(line in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = decode(&line);
    }
}

#[test]
fn a_field_of_a_later_version_is_passed_over() {
    let entry = decode(br#"{"time":1,"stream":"stderr","text":"x\n","colour":"red"}"#);
    assert_eq!(
        entry,
        Some(Entry::Output(Record {
            time: Timestamp(1),
            stream: LogStream::Stderr,
            data: b"x\n".to_vec(),
            continues: false
        }))
    );
}

#[test]
fn the_files_numbers_are_read_back() {
    assert_eq!(generation(&file_name(12)), Some(12));
    assert_eq!(generation("log.txt"), None);
    assert_eq!(generation("spec.json"), None);
}
