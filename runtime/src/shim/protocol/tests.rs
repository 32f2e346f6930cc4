use super::*;
use proptest::prelude::*;

fn stream() -> impl Strategy<Value = LogStream> {
    prop_oneof![Just(LogStream::Stdout), Just(LogStream::Stderr)]
}

fn size() -> impl Strategy<Value = WindowSize> {
    (any::<u16>(), any::<u16>()).prop_map(|(rows, columns)| WindowSize { rows, columns })
}

fn ending() -> impl Strategy<Value = Ending> {
    (
        any::<i32>(),
        any::<Option<i32>>(),
        any::<bool>(),
        any::<Option<u64>>(),
        any::<u64>(),
        ".*",
    )
        .prop_map(
            |(code, signal, oom_killed, started, finished, message)| Ending {
                exit: ExitStatus {
                    code,
                    signal,
                    oom_killed,
                },
                started_at: started.map(Timestamp),
                finished_at: Timestamp(finished),
                message,
            },
        )
}

fn phase() -> impl Strategy<Value = Phase> {
    prop_oneof![
        any::<i32>().prop_map(|pid| Phase::Created { pid }),
        (any::<i32>(), any::<u64>()).prop_map(|(pid, at)| Phase::Running {
            pid,
            started_at: Timestamp(at)
        }),
        ending().prop_map(Phase::Stopped),
    ]
}

fn from_shim() -> impl Strategy<Value = FromShim> {
    prop_oneof![
        (
            any::<u32>(),
            any::<i32>(),
            phase(),
            any::<u64>(),
            any::<u64>(),
            any::<Option<u64>>()
        )
            .prop_map(
                |(version, shim, phase, generation, offset, exec)| FromShim::Opened(Opened {
                    version,
                    shim,
                    phase,
                    log: Position { generation, offset },
                    exec
                })
            ),
        Just(FromShim::Done),
        Just(FromShim::Grown),
        phase().prop_map(FromShim::State),
        (stream(), prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(s, d)| FromShim::Output(s, d)),
        ending().prop_map(|e| FromShim::Exit(e.exit)),
    ]
}

fn to_shim() -> impl Strategy<Value = ToShim> {
    prop_oneof![
        prop_oneof![
            Just(Purpose::Control),
            Just(Purpose::Follow),
            prop::option::of(size()).prop_map(|size| Purpose::Attach { size }),
            (any::<bool>(), prop::option::of(size())).prop_map(|(stdin, size)| Purpose::Exec {
                process: Box::default(),
                stdin,
                size
            }),
        ]
        .prop_map(|purpose| ToShim::Open(Open {
            version: VERSION,
            purpose
        })),
        Just(ToShim::Start),
        Just(ToShim::Shutdown),
        Just(ToShim::CloseStdin),
        Just(ToShim::Progress),
        (any::<i32>(), any::<Option<u64>>())
            .prop_map(|(signal, exec)| ToShim::Kill(Kill { signal, exec })),
        (size(), any::<Option<u64>>())
            .prop_map(|(size, exec)| ToShim::Resize(Resize { size, exec })),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(ToShim::Stdin),
    ]
}

/// Sends all of it in pieces of the given lengths.
fn carry<M: Message>(messages: &[M], pieces: &[usize]) -> Vec<M> {
    let mut wire = Vec::new();
    for message in messages {
        message.encode(&mut wire).unwrap();
    }
    let (mut decoder, mut got, mut rest) = (Decoder::default(), Vec::new(), wire.as_slice());
    let mut pieces = pieces.iter().cycle();
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(rest.len().min(*pieces.next().unwrap()));
        rest = later;
        decoder.feed(piece);
        while let Some(message) = decoder.next().unwrap() {
            got.push(message);
        }
    }
    assert_eq!(
        decoder.buffer.capacity(),
        0,
        "a decoder with nothing pending holds memory"
    );
    got
}

proptest! {
    #[test]
    fn what_the_shim_says_arrives_however_it_is_cut(
        messages in prop::collection::vec(from_shim(), 1..12), pieces in prop::collection::vec(1usize..500, 1..6)
    ) {
        prop_assert_eq!(carry(&messages, &pieces), messages);
    }

    #[test]
    fn what_the_agent_says_arrives_however_it_is_cut(
        messages in prop::collection::vec(to_shim(), 1..12), pieces in prop::collection::vec(1usize..500, 1..6)
    ) {
        prop_assert_eq!(carry(&messages, &pieces), messages);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut decoder = Decoder::default();
        decoder.feed(&bytes);
        while let Ok(Some(_)) = decoder.next::<ToShim>() {}
        let mut decoder = Decoder::default();
        decoder.feed(&bytes);
        while let Ok(Some(_)) = decoder.next::<FromShim>() {}
    }
}

#[test]
fn a_kind_of_a_later_version_is_passed_over() {
    let mut wire = Vec::new();
    frame(200, b"something new", &mut wire).unwrap();
    ToShim::Start.encode(&mut wire).unwrap();
    let mut decoder = Decoder::default();
    decoder.feed(&wire);
    assert_eq!(decoder.next().unwrap(), Some(ToShim::Start));
    assert_eq!(decoder.next::<ToShim>().unwrap(), None);
}

#[test]
fn a_field_of_a_later_version_is_passed_over() {
    let mut wire = Vec::new();
    frame(kind::KILL, br#"{"signal":15,"everybody":true}"#, &mut wire).unwrap();
    let mut decoder = Decoder::default();
    decoder.feed(&wire);
    let kill = Kill {
        signal: 15,
        exec: None,
    };
    assert_eq!(decoder.next().unwrap(), Some(ToShim::Kill(kill)));
}

#[test]
fn an_error_keeps_its_kind_and_its_words() {
    for error in [
        Error::NotFound("a".to_owned()),
        Error::AlreadyExists("b".to_owned()),
        Error::Invalid("c".to_owned()),
        Error::Conflict("d".to_owned()),
        Error::Unsupported("e".to_owned()),
        Error::Internal("f".to_owned()),
        Error::io("mount x", std::io::Error::from_raw_os_error(libc::ENOENT)),
    ] {
        let back = Error::from(Failure::from(&error));
        assert_eq!(back.to_string(), error.to_string());
        assert_eq!(
            std::mem::discriminant(&back),
            std::mem::discriminant(&error)
        );
    }
}

#[test]
fn a_frame_that_is_too_long_is_refused_on_both_ends() {
    assert!(frame(kind::STDIN, &vec![0; MAX_FRAME], &mut Vec::new()).is_err());
    let mut decoder = Decoder::default();
    decoder.feed(&u32::MAX.to_le_bytes());
    assert!(decoder.next::<ToShim>().is_err());
}
