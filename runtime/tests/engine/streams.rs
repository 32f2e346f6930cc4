//! Attach and exec.

use crate::site::{Joined, Options, process, with_site};
use futures_util::StreamExt;
use std::fmt::Write;
use swarm_api::backend::{AttachOptions, Input, Output, WindowSize};
use swarm_runtime::Error;

fn numbers(to: u32) -> String {
    let mut text = String::new();
    for n in 1..=to {
        writeln!(text, "{n}").unwrap();
    }
    text
}

pub(crate) fn standard_input_goes_in_until_it_is_closed() {
    with_site(async |site| {
        let options = Options {
            stdin: true,
            ..Options::default()
        };
        site.run("one", "cat; echo done", options).await;
        let first = site.attach("one", false).await;
        first.send_bytes(b"from the first\n");
        let mut first = first;
        first.expect("from the first").await;
        // Its client goes, the input stays open.
        drop(first);
        let joined = site.attach("one", true).await;
        joined.send_bytes(b"from the second\n");
        joined.send(Input::CloseStdin);
        let (out, _, exit) = joined.finish().await;
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "from the first\nfrom the second\ndone\n"
        );
        assert_eq!(exit.code, 0);
        site.delete("one").await;
    });
}

pub(crate) fn without_standard_input_it_is_empty() {
    with_site(async |site| {
        site.run("one", "cat; echo done", Options::default()).await;
        let (out, _, exit) = site.attach("one", true).await.finish().await;
        assert_eq!((out.as_slice(), exit.code), (&b"done\n"[..], 0));
        site.delete("one").await;
    });
}

pub(crate) fn a_terminal_has_the_size_that_is_set() {
    with_site(async |site| {
        let options = Options {
            terminal: true,
            stdin: true,
            ..Options::default()
        };
        site.create(
            "one",
            "read a; stty size; read b; stty size; exit 3",
            options,
        )
        .await;
        let size = Some(WindowSize {
            rows: 30,
            columns: 90,
        });
        let attach = AttachOptions { replay: true, size };
        let (input, inputs) = tokio::sync::mpsc::unbounded_channel();
        let inputs = tokio_stream::wrappers::UnboundedReceiverStream::new(inputs).boxed();
        let output = site.engine.attach("one", attach, inputs).await.unwrap();
        let mut joined = Joined { input, output };
        site.engine.start("one").await.unwrap();
        joined.send_bytes(b"\n");
        joined.expect("30 90").await;
        joined.send(Input::Resize(WindowSize {
            rows: 40,
            columns: 100,
        }));
        joined.send_bytes(b"\n");
        joined.expect("40 100").await;
        let (_, err, exit) = joined.finish().await;
        assert_eq!((err.len(), exit.code), (0, 3));
        site.delete("one").await;
    });
}

pub(crate) fn output_of_a_process_that_ended_at_once_is_replayed() {
    with_site(async |site| {
        site.run("one", "printf 'no line end'; exit 2", Options::default())
            .await;
        let (out, _, exit) = site.attach("one", true).await.finish().await;
        assert_eq!((out.as_slice(), exit.code), (&b"no line end"[..], 2));
        site.wait("one").await;
        let (out, _, exit) = site.attach("one", true).await.finish().await;
        assert_eq!((out.as_slice(), exit.code), (&b"no line end"[..], 2));
        site.delete("one").await;
    });
}

pub(crate) fn a_replay_and_what_follows_have_neither_gap_nor_double() {
    with_site(async |site| {
        let script = "for i in $(seq 1 60); do seq 1 500; done";
        site.run("one", script, Options::default()).await;
        let mut readers = Vec::new();
        for _ in 0..12 {
            let joined = site.attach("one", true).await;
            readers.push(tokio::spawn(joined.finish()));
            tokio::task::yield_now().await;
        }
        let expected = numbers(500).repeat(60);
        for reader in readers {
            let (out, _, _) = reader.await.unwrap();
            assert!(
                out == expected.as_bytes(),
                "{} bytes in place of {}",
                out.len(),
                expected.len()
            );
        }
        site.delete("one").await;
    });
}

pub(crate) fn a_slow_reader_gets_everything() {
    with_site(async |site| {
        site.create(
            "one",
            "seq 1 200000",
            Options {
                log_max_bytes: 100_000,
                ..Options::default()
            },
        )
        .await;
        let mut joined = site.attach("one", false).await;
        site.engine.start("one").await.unwrap();
        let mut out = Vec::new();
        let mut count = 0u32;
        while let Some(output) = joined.output.next().await {
            match output.unwrap() {
                Output::Stdout(data) => out.extend_from_slice(&data),
                Output::Stderr(_) => {}
                Output::Exit(exit) => assert_eq!(exit.code, 0),
            }
            count += 1;
            if count.is_multiple_of(10) {
                // Others run meanwhile; the container has to wait.
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
        assert!(out == numbers(200_000).as_bytes(), "{} bytes", out.len());
        site.delete("one").await;
    });
}

pub(crate) fn attaching_to_what_has_ended_is_a_conflict() {
    with_site(async |site| {
        site.run("one", "exit 0", Options::default()).await;
        site.wait("one").await;
        let attached = site
            .engine
            .attach(
                "one",
                AttachOptions::default(),
                futures_util::stream::empty().boxed(),
            )
            .await;
        assert!(matches!(attached.err(), Some(Error::Conflict(_))));
        site.delete("one").await;
    });
}

pub(crate) fn exec_has_its_own_streams_and_exit_code() {
    with_site(async |site| {
        site.run("one", "echo init; sleep 1000", Options::default())
            .await;
        let joined = site
            .exec("one", "echo out; echo err >&2; cat; exit 6", false, true)
            .await;
        joined.send_bytes(b"typed");
        joined.send(Input::CloseStdin);
        let (out, err, exit) = joined.finish().await;
        assert_eq!(
            (out.as_slice(), err.as_slice(), exit.code),
            (&b"out\ntyped"[..], &b"err\n"[..], 6)
        );
        site.delete("one").await;
    });
}

pub(crate) fn exec_with_a_terminal() {
    with_site(async |site| {
        site.run("one", "sleep 1000", Options::default()).await;
        let mut joined = site
            .exec("one", "echo ready; read a; stty size; exit 4", true, true)
            .await;
        joined.expect("ready").await;
        joined.send(Input::Resize(WindowSize {
            rows: 20,
            columns: 70,
        }));
        joined.send_bytes(b"\n");
        joined.expect("20 70").await;
        let (_, _, exit) = joined.finish().await;
        assert_eq!(exit.code, 4);
        site.delete("one").await;
    });
}

pub(crate) fn exec_output_in_bulk_is_exact() {
    with_site(async |site| {
        site.run("one", "sleep 1000", Options::default()).await;
        let (out, _, exit) = site
            .exec("one", "seq 1 200000", false, false)
            .await
            .finish()
            .await;
        assert!(out == numbers(200_000).as_bytes(), "{} bytes", out.len());
        assert_eq!(exit.code, 0);
        site.delete("one").await;
    });
}

pub(crate) fn exec_input_in_bulk_is_exact() {
    with_site(async |site| {
        site.run("one", "sleep 1000", Options::default()).await;
        let joined = site.exec("one", "cat", false, true).await;
        let input = joined.input.clone();
        let (out, _, _) = {
            for _ in 0..40 {
                input
                    .send(Input::Stdin(numbers(10_000).into_bytes().into()))
                    .unwrap();
            }
            input.send(Input::CloseStdin).unwrap();
            joined.finish().await
        };
        assert!(
            out == numbers(10_000).repeat(40).as_bytes(),
            "{} bytes",
            out.len()
        );
        site.delete("one").await;
    });
}

pub(crate) fn exec_goes_on_without_its_client() {
    with_site(async |site| {
        site.run(
            "one",
            "while [ ! -e /done ]; do sleep 0.02; done; exit 8",
            Options::default(),
        )
        .await;
        let mut joined = site
            .exec(
                "one",
                "echo begun; sleep 0.1; seq 1 50000; touch /done",
                false,
                false,
            )
            .await;
        joined.expect("begun").await;
        drop(joined);
        assert_eq!(site.wait("one").await.code, 8);
        site.delete("one").await;
    });
}

pub(crate) fn exec_in_a_container_that_does_not_run_is_a_conflict() {
    with_site(async |site| {
        site.create("one", "exit 0", Options::default()).await;
        let run = async || {
            let input = futures_util::stream::empty().boxed();
            site.engine
                .exec("one", &process(&["/bin/true"], false), false, None, input)
                .await
                .err()
        };
        assert!(matches!(run().await, Some(Error::Conflict(_))));
        site.engine.start("one").await.unwrap();
        site.wait("one").await;
        assert!(matches!(run().await, Some(Error::Conflict(_))));
        site.delete("one").await;
    });
}

pub(crate) fn exec_of_what_is_not_there_is_named() {
    with_site(async |site| {
        site.run("one", "sleep 1000", Options::default()).await;
        let input = futures_util::stream::empty().boxed();
        let error = site
            .engine
            .exec(
                "one",
                &process(&["/bin/nothing-here"], false),
                false,
                None,
                input,
            )
            .await
            .err();
        assert!(
            error
                .as_ref()
                .is_some_and(|e| e.to_string().contains("nothing-here")),
            "{error:?}"
        );
        site.delete("one").await;
    });
}

pub(crate) fn a_signal_to_an_exec() {
    with_site(async |site| {
        site.run("one", "sleep 1000", Options::default()).await;
        let mut joined = site
            .exec("one", "echo ready; exec sleep 1000", false, false)
            .await;
        joined.expect("ready").await;
        joined.send(Input::Signal(libc::SIGKILL));
        let (_, _, exit) = joined.finish().await;
        assert_eq!((exit.code, exit.signal), (137, Some(9)));
        site.delete("one").await;
    });
}

pub(crate) fn a_program_left_in_the_background_does_not_hold_an_exec() {
    with_site(async |site| {
        site.run("one", "sleep 1000", Options::default()).await;
        let (out, _, exit) = site
            .exec("one", "echo out; sleep 1000 & exit 0", false, false)
            .await
            .finish()
            .await;
        assert_eq!((out.as_slice(), exit.code), (&b"out\n"[..], 0));
        site.delete("one").await;
    });
}
