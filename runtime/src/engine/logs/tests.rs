use super::*;
use crate::shim::log::{Entry, LogWriter};
use proptest::prelude::*;
use std::path::Path;

fn outputs() -> impl Strategy<Value = Vec<(LogStream, Vec<u8>)>> {
    let stream = prop_oneof![Just(LogStream::Stdout), Just(LogStream::Stderr)];
    let bytes = prop_oneof![
        prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 1..40),
        "[a-z\n]{1,30}".prop_map(String::into_bytes),
    ];
    prop::collection::vec((stream, bytes), 0..25)
}

fn write(log: &mut LogWriter, outputs: &[(LogStream, Vec<u8>)]) {
    for (stream, data) in outputs {
        log.append(Timestamp(1), *stream, data);
    }
}

fn read_all(cursor: &mut Cursor) -> Vec<Entry> {
    let mut all = Vec::new();
    loop {
        let entries = cursor.read().unwrap();
        if entries.is_empty() {
            return all;
        }
        all.extend(entries);
    }
}

fn bytes_of(entries: &[Entry], of: LogStream) -> Vec<u8> {
    let of_stream = entries.iter().filter_map(|e| match e {
        Entry::Output(r) if r.stream == of => Some(r.data.as_slice()),
        _ => None,
    });
    of_stream.collect::<Vec<_>>().concat()
}

fn put(outputs: &[(LogStream, Vec<u8>)], of: LogStream) -> Vec<u8> {
    outputs
        .iter()
        .filter(|(s, _)| *s == of)
        .flat_map(|(_, d)| d.clone())
        .collect()
}

fn join(entries: Vec<Entry>, first: u64) -> Vec<(LogStream, Bytes)> {
    let (mut lines, mut out) = (Lines::default(), Vec::new());
    for entry in entries {
        lines.add(entry, &mut out);
    }
    lines.finish(&mut out);
    let kept = out.into_iter().filter(|l| l.number >= first);
    kept.map(|l| (l.stream, l.data)).collect()
}

/// The last so many lines in the order in which they began.
fn last(entries: Vec<Entry>, count: u64) -> Vec<(LogStream, Bytes)> {
    let (mut lines, mut out) = (Lines::default(), Vec::new());
    for entry in entries {
        lines.add(entry, &mut out);
    }
    lines.finish(&mut out);
    let begun = out.iter().map(|l| l.number + 1).max().unwrap_or(0);
    let kept = out.into_iter().filter(|l| l.number + count >= begun);
    kept.map(|l| (l.stream, l.data)).collect()
}

fn tail(dir: &Path, count: u64) -> Vec<(LogStream, Bytes)> {
    let mut cursor = Cursor::open(dir).unwrap();
    let first = cursor.go_to_tail(count).unwrap();
    join(read_all(&mut cursor), first)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn lines_are_joined_without_a_byte_lost(outputs in outputs()) {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::new(dir.path(), 1 << 20).unwrap();
        write(&mut log, &outputs);
        let lines = join(read_all(&mut Cursor::open(dir.path()).unwrap()), 0);
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            let of: Vec<Bytes> = lines.iter().filter(|(s, _)| *s == stream).map(|(_, d)| d.clone()).collect();
            let expected: Vec<Bytes> = put(&outputs, stream).split_inclusive(|b| *b == b'\n').map(Bytes::copy_from_slice).collect();
            prop_assert_eq!(of, expected);
        }
    }

    #[test]
    fn the_tail_is_the_last_lines(outputs in outputs(), max in 200u64..3000, count in 0u64..20) {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::new(dir.path(), max).unwrap();
        write(&mut log, &outputs);
        let all = read_all(&mut Cursor::open(dir.path()).unwrap());
        prop_assert_eq!(tail(dir.path(), count), last(all, count));
    }

    #[test]
    fn a_reader_who_keeps_up_misses_nothing_in_rotations(batches in prop::collection::vec(outputs(), 1..5), max in 3000u64..6000) {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::new(dir.path(), max).unwrap();
        let mut cursor = Cursor::open(dir.path()).unwrap();
        let mut got = Vec::new();
        for outputs in &batches {
            write(&mut log, outputs);
            got.extend(read_all(&mut cursor));
        }
        let all = batches.concat();
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            prop_assert_eq!(bytes_of(&got, stream), put(&all, stream));
        }
    }

    #[test]
    fn a_replay_ends_exactly_at_its_position(before in outputs(), after in outputs(), max in 2500u64..6000) {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::new(dir.path(), max).unwrap();
        write(&mut log, &before);
        let mut cursor = Cursor::open(dir.path()).unwrap();
        let position = log.position();
        write(&mut log, &after);
        cursor.until(position);
        let got = read_all(&mut cursor);
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            prop_assert!(put(&before, stream).ends_with(&bytes_of(&got, stream)));
        }
        let kept: usize = got.iter().map(|e| match e { Entry::Output(r) => r.data.len(), Entry::Lost { .. } => 0 }).sum();
        if position.generation == 0 {
            prop_assert_eq!(kept, before.iter().map(|(_, d)| d.len()).sum::<usize>());
        }
    }
}

#[test]
fn a_tail_of_long_records_is_found_over_block_boundaries() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogWriter::new(dir.path(), 100 << 20).unwrap();
    for i in 0..40u8 {
        let mut line = vec![b'a' + i % 26; 30_000];
        line.push(b'\n');
        log.append(Timestamp(1), LogStream::Stdout, &line);
    }
    let lines = tail(dir.path(), 3);
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|(_, d)| d.len() == 30_001));
    assert_eq!(lines[2].1[0], b'a' + 39 % 26);
}

#[test]
fn a_torn_record_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let text = "{\"time\":1,\"stream\":\"stdout\",\"text\":\"a\\n\"}\n{\"time\":1,\"str\n{\"time\":2,\"stream\":\"stdout\",\"text\":\"b\\n\"}\n{\"ti";
    std::fs::write(dir.path().join("log.0"), text).unwrap();
    let lines = join(read_all(&mut Cursor::open(dir.path()).unwrap()), 0);
    let data: Vec<Bytes> = lines.into_iter().map(|(_, d)| d).collect();
    assert_eq!(data, ["a\n", "b\n"]);
    assert_eq!(tail(dir.path(), 1).len(), 1);
}
