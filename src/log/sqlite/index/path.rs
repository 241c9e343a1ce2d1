//! Indexed paths into the payload: each scalar that stands at one is a key, beside the tags.

use std::sync::Arc;

use serde_json::Value;

use crate::event::matching::{NumberValue, Scalar};
use crate::event::record::EventRecord;
pub(crate) use crate::log::payload_path::{PATHS_MAX, PayloadPath};
use crate::log::sqlite::index::entry::{hash, tag_key};

impl PayloadPath {
    /// The key of the scalar that stands at the path.
    pub(crate) fn key_in(&self, value: &Value) -> Option<i64> {
        Some(self.key(self.scalar_in(value)?))
    }

    /// The key of a scalar at this path. Part of the file format.
    fn key(&self, scalar: Scalar<'_>) -> i64 {
        let mut text = self.pointer().as_bytes().to_vec();
        // A tag has no control characters, so that this is no tag.
        text.push(0);
        match scalar {
            Scalar::Null => text.push(b'n'),
            Scalar::Flag(flag) => text.extend([b'f', u8::from(flag)]),
            Scalar::Number(NumberValue::Whole(integer)) => {
                text.push(b'i');
                text.extend(integer.to_le_bytes());
            }
            Scalar::Number(NumberValue::Float(bits)) => {
                text.push(b'd');
                text.extend(bits.to_le_bytes());
            }
            Scalar::Text(string) => {
                text.push(b't');
                text.extend_from_slice(string.as_bytes());
            }
        }
        hash(&text)
    }
}

/// The keys of an event, as it is stored: one for each tag, and for each path at which a scalar stands.
pub(super) fn keys(event: &EventRecord, paths: &Arc<[PayloadPath]>, mut take: impl FnMut(i64)) {
    event.tags().for_each(|tag| take(tag_key(tag)));
    if !paths.is_empty() {
        keys_of_payload(event.stored_payload(), paths, take);
    }
}

/// The keys of a payload. Text that is no JSON has none.
pub(super) fn keys_of_payload(payload: &str, paths: &Arc<[PayloadPath]>, take: impl FnMut(i64)) {
    if let Ok(value) = serde_json::from_str::<Value>(payload) {
        paths.iter().filter_map(|path| path.key_in(&value)).for_each(take);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn path(pointer: &str) -> PayloadPath {
        PayloadPath::parse(pointer).unwrap()
    }

    #[test]
    fn equal_scalars_have_equal_keys_and_other_places_have_other_keys() {
        let order = path("/order");
        let keys: Vec<Option<i64>> = [
            json!({"order": 7}),
            json!({"order": 7.0, "more": [1]}),
            json!({"order": "7"}),
            json!({"order": true}),
            json!({"order": null}),
            json!({"order": 7.5}),
            json!({"order": [7]}),
            json!({"orders": 7}),
            json!([7]),
        ]
        .iter()
        .map(|payload| order.key_in(payload))
        .collect();
        assert_eq!(keys[0], keys[1]);
        assert_eq!(keys[6..], [None, None, None]);
        let mut different: Vec<i64> = keys[1..6].iter().copied().map(Option::unwrap).collect();
        different.extend(path("/a/order").key_in(&json!({"a": {"order": 7}})));
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), 6);
    }

    #[test]
    fn keys_of_scalars_never_change() {
        let order = path("/order");
        let golden = [
            (json!(7), -4_168_810_416_877_234_026),
            (json!(0.5), 7_097_416_662_768_693_851),
            (json!("a"), -1_511_165_649_998_642_183),
            (json!(null), -1_818_480_648_725_412_668),
            (json!(true), -1_528_348_817_720_917_641),
        ];
        for (value, key) in golden {
            assert_eq!(order.key_in(&json!({"order": value})), Some(key), "{value}");
        }
    }
}
