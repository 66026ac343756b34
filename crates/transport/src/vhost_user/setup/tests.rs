//! Messages in any order, and words that no server wrote.

use super::*;

fn numbers(request: u32, index: u32, value: u32) -> Message {
    Message::new(request, [index.to_ne_bytes(), value.to_ne_bytes()].concat())
}

fn table(count: u64) -> Message {
    let mut body = count.to_ne_bytes().to_vec();
    body.extend((0..4 * count).flat_map(|value| (value << 20).to_ne_bytes()));
    Message::new(SET_MEM_TABLE, body)
}

fn event(request: u32, value: u64) -> Message {
    Message::new(request, value.to_ne_bytes().to_vec())
}

/// As a front end sets a device up, with queue 2 started.
fn setup() -> Setup {
    let mut setup = Setup::default();
    let mut addresses = numbers(SET_VRING_ADDR, 2, 0);
    addresses
        .body
        .extend((1..=4_u64).flat_map(u64::to_ne_bytes));
    let all = [
        (Message::new(SET_OWNER, Vec::new()), vec![]),
        (event(SET_PROTOCOL_FEATURES, 7), vec![]),
        (event(SET_FEATURES, 1 << 32), vec![]),
        (table(2), vec![50, 51]),
        (numbers(SET_VRING_NUM, 2, 128), vec![]),
        (addresses, vec![]),
        (numbers(SET_VRING_BASE, 2, 5), vec![]),
        (event(SET_VRING_KICK, 2), vec![52]),
        (event(SET_VRING_CALL, 2 | NO_FILE), vec![]),
        (event(SET_VRING_ERR, 2), vec![53]),
        (numbers(SET_VRING_ENABLE, 2, 1), vec![]),
    ];
    for (message, files) in &all {
        setup.note(message, files, &[]);
    }
    setup
}

#[test]
fn messages_noted_again_lead_to_the_same_setup() {
    let mut setup = setup();
    let mut region = vec![0; 8];
    region.extend(
        [1_u64 << 40, 1 << 20, 1 << 41, 0]
            .iter()
            .flat_map(|word| word.to_ne_bytes()),
    );
    for file in 60..100_u32 {
        region[8..12].copy_from_slice(&file.to_ne_bytes());
        setup.note(
            &Message::new(ADD_MEM_REG, region.clone()),
            &[file.cast_signed()],
            &[],
        );
    }
    let mut again = Setup::default();
    for (message, files) in setup.messages() {
        assert!(files.len() <= FILES_MAX);
        again.note(&message, &files, &[]);
    }
    assert_eq!(again, setup);
    assert_eq!(Setup::from_words(&setup.to_words()).unwrap(), setup);
    setup.note(&Message::new(REM_MEM_REG, region), &[], &[]);
    assert_eq!(setup.files().len(), 2 + 39 + 2);
}

#[test]
fn note_of_get_vring_base_leaves_a_queue_that_is_not_started() {
    let mut setup = setup();
    let mut reply = vec![0; 12];
    reply.extend([2_u32, 77].iter().flat_map(|word| word.to_ne_bytes()));
    setup.note(&numbers(GET_VRING_BASE, 2, 0), &[], &reply);
    assert_eq!(setup.files(), [50, 51, 53]);
    let bases: Vec<_> = setup
        .messages()
        .into_iter()
        .map(|(message, _)| message)
        .collect();
    assert!(bases.contains(&numbers(SET_VRING_BASE, 2, 77)));
    assert!(
        !bases
            .iter()
            .any(|message| message.request == SET_VRING_KICK)
    );
}

#[test]
fn from_words_with_any_bit_wrong_is_damaged() {
    let words = setup().to_words();
    for at in 0..WORDS {
        for bit in [0, 31, 63] {
            let mut wrong = words.clone();
            wrong[at] ^= 1 << bit;
            assert!(Setup::from_words(&wrong).is_err(), "word {at} bit {bit}");
        }
    }
}

#[test]
fn note_of_a_message_that_is_too_short_changes_nothing() {
    let before = setup();
    for request in 0..64 {
        let mut setup = before.clone();
        setup.note(&Message::new(request, vec![2]), &[], &[]);
        let is_plain = [SET_OWNER, RESET_OWNER, SET_MEM_TABLE].contains(&request);
        assert!(is_plain || setup == before, "{request}");
    }
}
