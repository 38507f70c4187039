//! Type names concatenated at compile time, and type ids computed from them.

use std::fmt;

/// Stable id of a message type: the 64-bit FNV-1a hash of its [`TYPE_NAME`](super::Message::TYPE_NAME).
///
/// The id depends only on the name, so every process, language and compiler version computes the same id. The hash starts with
/// `0xcbf29ce484222325`. For each byte of the UTF-8 name, it is XORed with the byte, then multiplied by `0x100000001b3` modulo 2⁶⁴
/// ([the algorithm](http://www.isthe.com/chongo/tech/comp/fnv/)).
///
/// ```
/// use dotcompute_core::message::MessageTypeId;
///
/// assert_eq!(MessageTypeId::of("a").get(), 0xaf63dc4c8601ec8c);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct MessageTypeId(u64);

impl MessageTypeId {
    /// Returns the id of the type with this name.
    pub const fn of(type_name: &str) -> Self {
        let bytes = type_name.as_bytes();
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut i = 0;
        while i < bytes.len() {
            hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0100_0000_01b3);
            i += 1;
        }
        Self(hash)
    }

    /// Returns the id as a number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for MessageTypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for MessageTypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageTypeId({self})")
    }
}

/// Builder of a type name in constants. It concatenates associated constants: the name of `Option<T>` is `Option<` + `T::TYPE_NAME` + `>`.
#[doc(hidden)]
pub struct TypeName {
    bytes: [u8; Self::MAX_LEN],
    len: usize,
}

impl TypeName {
    const MAX_LEN: usize = 512;

    /// Creates a name that starts with `text`.
    pub const fn new(text: &str) -> Self {
        Self { bytes: [0; Self::MAX_LEN], len: 0 }.append(text)
    }

    /// Appends `text`.
    ///
    /// # Panics
    ///
    /// If the name becomes longer than 512 bytes. This is a compile error, because names are built in constants only.
    #[must_use]
    pub const fn append(mut self, text: &str) -> Self {
        let text = text.as_bytes();
        assert!(
            self.len + text.len() <= Self::MAX_LEN,
            "naming a message type: the name is longer than 512 bytes; give an inner type a shorter name with #[message(name = \"...\")]"
        );
        let mut i = 0;
        while i < text.len() {
            self.bytes[self.len] = text[i];
            self.len += 1;
            i += 1;
        }
        self
    }

    /// Appends `number` in decimal.
    #[must_use]
    pub const fn append_number(self, number: u128) -> Self {
        let name = if number >= 10 { self.append_number(number / 10) } else { self };
        let digit = [b'0' + (number % 10) as u8];
        match str::from_utf8(&digit) {
            Ok(digit) => name.append(digit),
            Err(_) => unreachable!(),
        }
    }

    /// Returns the name.
    pub const fn as_str(&self) -> &str {
        match str::from_utf8(self.bytes.split_at(self.len).0) {
            Ok(name) => name,
            Err(_) => unreachable!(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_ids_match_the_published_fnv_1a_vectors() {
        // From the reference implementation's test suite, test_fnv.c.
        assert_eq!(MessageTypeId::of("").get(), 0xcbf2_9ce4_8422_2325);
        assert_eq!(MessageTypeId::of("foobar").get(), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn names_concatenate_text_and_numbers() {
        const NAME: &str =
            const { &TypeName::new("[").append("f32").append("; ").append_number(1024).append("]") }.as_str();
        assert_eq!(NAME, "[f32; 1024]");
        assert_eq!(TypeName::new("").append_number(0).as_str(), "0");
        assert_eq!(TypeName::new("").append_number(u128::MAX).as_str(), u128::MAX.to_string());
    }
}
