//! Finds the keys that detach, ctrl-p ctrl-q, in what is typed. Pure: bytes in, bytes out.

const CTRL_P: u8 = 0x10;
const CTRL_Q: u8 = 0x11;

/// Holds back a ctrl-p until it is known what follows it.
#[derive(Debug, Default)]
pub(crate) struct DetachKeys {
    held: bool,
}

impl DetachKeys {
    /// What of `typed` goes on, and whether the user detaches after it.
    pub(crate) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len() + 1);
        for &key in typed {
            if std::mem::take(&mut self.held) {
                if key == CTRL_Q {
                    return (passed, true);
                }
                passed.push(CTRL_P);
            }
            if key == CTRL_P {
                self.held = true;
            } else {
                passed.push(key);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ctrl_p_ctrl_q_detaches_and_everything_else_passes() {
        let mut keys = DetachKeys::default();
        assert_eq!(keys.filter(b"ls\r"), (b"ls\r".to_vec(), false));
        assert_eq!(keys.filter(&[b'a', CTRL_P]), (b"a".to_vec(), false));
        assert_eq!(keys.filter(b"b"), (vec![CTRL_P, b'b'], false));
        assert_eq!(keys.filter(&[CTRL_Q]), (vec![CTRL_Q], false));
        assert_eq!(keys.filter(&[CTRL_P, CTRL_P]), (vec![CTRL_P], false));
        assert_eq!(keys.filter(&[CTRL_Q, b'x']), (vec![], true));
    }
}
