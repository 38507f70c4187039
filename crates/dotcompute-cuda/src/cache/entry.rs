//! The file format of a cache entry.
//!
//! ```text
//! byte 0   magic and version of this layout
//!      8   SHA-256 of everything after it
//!     40   the key: SHA-256 of what was compiled, and by what
//!     72   length of the log, u64, little endian
//!     80   the log, then the cubin
//! ```

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::compile::{CompiledKernel, Cubin, Input, Toolchain};
use crate::library::Identity;

/// The first eight bytes: the name, and the version of this layout.
const MAGIC: [u8; 8] = *b"DCCUBIN\x01";

/// Offsets of the fields.
const CHECKSUM: usize = 8;
const KEY: usize = CHECKSUM + 32;
const LENGTH: usize = KEY + 32;
const LOG: usize = LENGTH + 8;

/// The key of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key([u8; 32]);

impl Key {
    /// Returns the key of the output of `toolchain` for `input`.
    pub(super) fn of(toolchain: &Toolchain, input: &Input) -> Self {
        Self::of_parts(toolchain.compiler(), toolchain.linker().ok(), input)
    }

    fn of_parts(compiler: &Identity, linker: Option<&Identity>, input: &Input) -> Self {
        let mut hash = Sha256::new();
        // The options that the toolchain adds change only with the version of this crate.
        hash.update(concat!("dotcompute-cuda ", env!("CARGO_PKG_VERSION"), "\0"));
        for library in [Some(compiler), linker] {
            let words = library.map_or([0; 3], |Identity { version, bytes, .. }| {
                [u64::from(version.major), u64::from(version.minor), *bytes]
            });
            words.into_iter().for_each(|word| hash.update(word.to_le_bytes()));
        }
        input.fingerprint(|part| hash.update(part));
        Self(hash.finalize().into())
    }

    /// Returns the file name of the entry.
    pub(super) fn file_name(&self) -> String {
        let mut name = String::with_capacity(2 * self.0.len() + ".kernel".len());
        for byte in self.0 {
            // Writing to a `String` cannot fail.
            let _ = write!(name, "{byte:02x}");
        }
        name + ".kernel"
    }
}

/// Encodes an entry.
pub(super) fn encode(key: &Key, kernel: &CompiledKernel) -> Vec<u8> {
    let mut bytes = Vec::from(MAGIC);
    bytes.resize(KEY, 0);
    bytes.extend_from_slice(&key.0);
    bytes.extend_from_slice(&(kernel.log.len() as u64).to_le_bytes());
    bytes.extend_from_slice(kernel.log.as_bytes());
    bytes.extend_from_slice(kernel.cubin.as_bytes());
    let checksum = Sha256::digest(&bytes[KEY..]);
    bytes[CHECKSUM..KEY].copy_from_slice(&checksum);
    bytes
}

/// Decodes an entry. The error is the reason why the bytes are not a valid entry for `key`.
pub(super) fn decode(key: &Key, bytes: &[u8]) -> Result<CompiledKernel, &'static str> {
    let (header, rest) = bytes.split_at_checked(LOG).ok_or("it is truncated")?;
    if header[..CHECKSUM] != MAGIC {
        return Err("it is not an entry of this version");
    }
    if header[CHECKSUM..KEY] != Sha256::digest(&bytes[KEY..])[..] {
        return Err("its checksum does not match");
    }
    if header[KEY..LENGTH] != key.0 {
        return Err("it belongs to another key");
    }
    // The checksum matches, so the rest is wrong only if a program wrote an invalid entry.
    let length = header[LENGTH..].iter().rev().fold(0_u64, |length, byte| length << 8 | u64::from(*byte));
    let split = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
    let (log, cubin) = split.ok_or("its log extends past the end")?;
    let log = String::from_utf8(log.to_vec()).map_err(|_| "its log is not UTF-8")?;
    let cubin = Cubin::new(cubin.to_vec()).ok_or("it does not contain a cubin")?;
    Ok(CompiledKernel { cubin, log })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Architecture;
    use crate::compile::Source;
    use crate::library::Version;

    fn identity(minor: u32, bytes: u64) -> Identity {
        Identity { version: Version { major: 13, minor }, path: None, bytes }
    }

    fn input() -> Input {
        Input::new("k", Architecture { major: 9, minor: 0 }).source(Source::new("k.cu", "text"))
    }

    fn kernel() -> CompiledKernel {
        CompiledKernel {
            cubin: Cubin::new(b"\x7fELF and so on".to_vec()).unwrap(),
            log: "a warning\n".into(),
        }
    }

    #[test]
    fn an_entry_round_trips() {
        let key = Key::of_parts(&identity(0, 1), None, &input());
        assert_eq!(decode(&key, &encode(&key, &kernel())).unwrap(), kernel());
    }

    #[test]
    fn every_changed_byte_and_every_truncation_is_detected() {
        let key = Key::of_parts(&identity(0, 1), None, &input());
        let bytes = encode(&key, &kernel());
        for at in 0..bytes.len() {
            assert!(decode(&key, &bytes[..at]).is_err(), "cut at {at}");
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert!(decode(&key, &changed).is_err(), "changed at {at}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert_eq!(decode(&key, &longer).unwrap_err(), "its checksum does not match");
        assert!(decode(&key, &[]).is_err());
    }

    #[test]
    fn another_compiler_linker_or_input_has_another_key() {
        let key = Key::of_parts(&identity(0, 1), Some(&identity(0, 1)), &input());
        let others = [
            Key::of_parts(&identity(1, 1), Some(&identity(0, 1)), &input()),
            Key::of_parts(&identity(0, 2), Some(&identity(0, 1)), &input()),
            Key::of_parts(&identity(0, 1), Some(&identity(1, 1)), &input()),
            Key::of_parts(&identity(0, 1), None, &input()),
            Key::of_parts(&identity(0, 1), Some(&identity(0, 1)), &input().option("-G")),
        ];
        assert!(others.iter().all(|other| *other != key));
        // An entry that was renamed to the file name of another key is not accepted.
        assert_eq!(decode(&others[0], &encode(&key, &kernel())).unwrap_err(), "it belongs to another key");
        assert_ne!(others[0].file_name(), key.file_name());
    }

    #[test]
    fn an_invalid_entry_with_a_matching_checksum_is_rejected() {
        let key = Key::of_parts(&identity(0, 1), None, &input());
        let summed = |change: fn(&mut Vec<u8>)| {
            let mut bytes = encode(&key, &kernel());
            change(&mut bytes);
            let sum = Sha256::digest(&bytes[KEY..]);
            bytes[CHECKSUM..KEY].copy_from_slice(&sum);
            decode(&key, &bytes).unwrap_err()
        };
        assert_eq!(summed(|bytes| bytes[LENGTH..LOG].fill(0xff)), "its log extends past the end");
        assert_eq!(summed(|bytes| bytes[LOG] = 0xff), "its log is not UTF-8");
        assert_eq!(summed(|bytes| bytes[LENGTH] -= 1), "it does not contain a cubin");
    }
}
