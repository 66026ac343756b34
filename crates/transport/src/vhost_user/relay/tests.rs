//! Messages of a front end that is a socket, and servers that die between any two steps of one.

use std::io::Write;

use vhost::vhost_user::message::VhostUserVirtioFeatures;

use super::super::completion::Completion;
use super::super::device::Device;
use super::super::service::{Request, Service};
use super::*;

struct Nothing;

impl Service for Nothing {
    fn serve(&self, _request: Request<'_>, _completion: Completion) {}

    fn interrupt_waiting(&self) {}

    fn has_resumed(&self) {}
}

/// What a server has done of one message when it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dies {
    Looked,
    Handled,
    Replied,
    Noted,
    TakenSome,
    Taken,
    Sent,
}

const ALL: [Dies; 7] = [
    Dies::Looked,
    Dies::Handled,
    Dies::Replied,
    Dies::Noted,
    Dies::TakenSome,
    Dies::Taken,
    Dies::Sent,
];

/// A relay of another server, on the same socket.
fn relay(front: &UnixStream, kept: &Arc<Kept>) -> Relay {
    let device = Device::new(Arc::new(Nothing), None, 2, Some(Arc::clone(kept)));
    Relay::new(
        front.try_clone().unwrap(),
        &device.handler().unwrap(),
        Arc::clone(kept),
    )
    .unwrap()
}

/// The steps of [`Relay::hand_on`], as far as the server gets.
fn die(relay: &mut Relay, dies: Dies) {
    peek_from_start(&relay.front).unwrap();
    let (message, files) = relay.look().unwrap().unwrap();
    if dies == Dies::Looked {
        return;
    }
    let reply = relay.handle(&message, &files).unwrap();
    if dies == Dies::Handled {
        return;
    }
    rustix::io::write(relay.kept.reply().1, &reply).unwrap();
    if dies == Dies::Replied {
        return;
    }
    let numbers: Vec<i32> = files.into_iter().map(IntoRawFd::into_raw_fd).collect();
    relay.setup.note(&message, &numbers, &reply);
    relay.kept.store(&relay.setup);
    let take = |len: usize| {
        let mut bytes = vec![0; len];
        (&relay.front).read_exact(&mut bytes).unwrap();
    };
    match dies {
        Dies::TakenSome => take(5),
        Dies::Taken | Dies::Sent if reply.is_empty() => {
            take(HEADER + message.body.len());
        }
        Dies::Taken => take(HEADER + message.body.len()),
        Dies::Sent if !reply.is_empty() => {
            take(HEADER + message.body.len());
            let reply = relay.kept.reply().0;
            splice(
                reply,
                None,
                &relay.front,
                None,
                BODY_MAX,
                SpliceFlags::empty(),
            )
            .unwrap();
        }
        _noted => {}
    }
}

fn receive(socket: &UnixStream) -> (u32, u64) {
    let mut reply = [0; 20];
    (&*socket).read_exact(&mut reply).unwrap();
    let request = u32::from_ne_bytes(*reply.first_chunk().unwrap());
    (request, u64::from_ne_bytes(*reply.last_chunk().unwrap()))
}

/// With REPLY_ACK, as all front ends of today have it.
fn acknowledged(message: &Message) -> Vec<u8> {
    let mut bytes = message.bytes();
    bytes[4] |= 8;
    bytes
}

#[test]
fn run_after_a_death_at_any_step_replies_once_to_each_message() {
    let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    let number = |value: u64| value.to_ne_bytes().to_vec();
    for dies in ALL {
        let (front, theirs) = UnixStream::pair().unwrap();
        let kept = Arc::new(Kept::new().unwrap());
        kept.connected(front.as_raw_fd());
        // What is asked, what changes, and what comes with a descriptor.
        let messages = [
            (Message::new(1, Vec::new()), None),
            (Message::new(3, Vec::new()), None),
            (Message::new(15, Vec::new()), None),
            (Message::new(16, number(1 << 3 | 1)), None),
            (Message::new(2, number(1 << 32 | protocol)), None),
            (
                Message::new(8, [1_u32, 64].map(u32::to_ne_bytes).concat()),
                None,
            ),
            (Message::new(14, number(1)), Some(())),
            (Message::new(17, Vec::new()), None),
        ];
        for (message, file) in &messages {
            let files = file.map(|()| vec![OwnedFd::from(theirs.try_clone().unwrap())]);
            let is_asked = matches!(message.request, 1 | 15 | 17);
            let bytes = match is_asked {
                true => message.bytes(),
                false => acknowledged(message),
            };
            send(&theirs, &bytes, &files.unwrap_or_default()).unwrap();
            die(&mut relay(&front, &kept), dies);
            // The next server does the rest, and leaves nothing.
            let mut next = relay(&front, &kept);
            match next.kept.is_handled() {
                true => next.finish().unwrap(),
                false => {
                    next.discard_reply().unwrap();
                    assert!(next.hand_on().unwrap(), "{dies:?} {message:?}");
                }
            }
            if is_asked || matches!(message.request, 2 | 8 | 14 | 16) {
                let (request, value) = receive(&theirs);
                assert_eq!(request, message.request, "{dies:?}");
                assert!(is_asked || value == 0, "{dies:?} {message:?}: {value}");
            }
            theirs.set_nonblocking(true).unwrap();
            assert!(
                (&theirs).read(&mut [0]).is_err(),
                "{dies:?}: a second reply"
            );
            theirs.set_nonblocking(false).unwrap();
            front.set_nonblocking(true).unwrap();
            assert!(
                (&front).read(&mut [0]).is_err(),
                "{dies:?}: {message:?} is left"
            );
            front.set_nonblocking(false).unwrap();
        }
        assert_eq!(kept.setup().unwrap().files().len(), 1);
    }
}

/// QEMU waits for few replies: the next messages are in the socket by then, with their descriptors.
#[test]
fn run_of_messages_that_were_sent_at_once_gives_each_its_own_descriptors() {
    let (front, theirs) = UnixStream::pair().unwrap();
    let kept = Arc::new(Kept::new().unwrap());
    kept.connected(front.as_raw_fd());
    let number = |value: u64| value.to_ne_bytes().to_vec();
    let file = || vec![OwnedFd::from(theirs.try_clone().unwrap())];
    let all = [
        (Message::new(3, Vec::new()), Vec::new()),
        (Message::new(14, number(0)), file()),
        (
            Message::new(8, [1_u32, 64].map(u32::to_ne_bytes).concat()),
            Vec::new(),
        ),
        (Message::new(14, number(0x101)), Vec::new()),
        (Message::new(14, number(2)), file()),
        (Message::new(14, number(0)), file()),
    ];
    for (message, files) in &all {
        send(&theirs, &message.bytes(), files).unwrap();
    }
    let mut relay = relay(&front, &kept);
    for _message in &all {
        assert!(relay.hand_on().unwrap());
    }
    assert_eq!(kept.setup().unwrap().files().len(), 2);
}

#[test]
fn run_until_the_front_end_is_gone_in_the_middle_of_a_message_is_no_failure() {
    let (front, mut theirs) = UnixStream::pair().unwrap();
    let kept = Arc::new(Kept::new().unwrap());
    kept.connected(front.as_raw_fd());
    theirs.write_all(&[1, 0, 0, 0, 1]).unwrap();
    drop(theirs);
    relay(&front, &kept).run().unwrap();
}

#[test]
fn run_of_a_message_that_is_too_long_is_an_error() {
    let (front, mut theirs) = UnixStream::pair().unwrap();
    let kept = Arc::new(Kept::new().unwrap());
    kept.connected(front.as_raw_fd());
    theirs
        .write_all(&[1, 0, 0, 0, 1, 0, 0, 0, 1, 16, 0, 0])
        .unwrap();
    let error = relay(&front, &kept).run().unwrap_err();
    assert!(error.to_string().contains("4097 bytes"), "{error}");
}
