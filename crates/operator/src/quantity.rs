//! Kubernetes quantities, read exactly.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Digits of a number that are looked at: more than any quantity has that Kubernetes keeps.
const DIGITS_MAX: usize = 18;

/// Thousand-millionths in one: Kubernetes keeps nothing finer.
const NANO: u128 = 1_000_000_000;

/// Whole bytes of a quantity, rounded up; nothing where it is none, is negative, or is beyond 2^63.
pub(crate) fn bytes(quantity: &Quantity) -> Option<u64> {
    let value = nano(quantity)?.div_ceil(NANO);
    i64::try_from(value).ok()?.try_into().ok()
}

/// A quantity in thousand-millionths, rounded up; nothing where it is none, or is negative.
pub(crate) fn nano(quantity: &Quantity) -> Option<u128> {
    let text = quantity.0.as_str();
    let end = text
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(end)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > DIGITS_MAX {
        return None;
    }
    let number: u128 = digits.parse().ok()?;
    let (numerator, denominator) = factor(suffix)?;
    let denominator =
        denominator.checked_mul(10_u128.checked_pow(fraction.len().try_into().ok()?)?)?;
    let nano = number.checked_mul(NANO)?.checked_mul(numerator)?;
    Some(nano.div_ceil(denominator))
}

/// As a fraction.
fn factor(suffix: &str) -> Option<(u128, u128)> {
    let factor = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let exponent: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_u128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    };
    Some(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_quantity_is_read() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1Gi", Some(1 << 30)),
            ("1.5Gi", Some(3 << 29)),
            ("500M", Some(500_000_000)),
            ("128974848000m", Some(128_974_848)),
            ("1e3", Some(1_000)),
            ("1E3", Some(1_000)),
            ("1E", Some(1_000_000_000_000_000_000)),
            ("100m", Some(1)),
            ("8Ei", None),
            ("", None),
            (".", None),
            ("-1Gi", None),
            ("1 Gi", None),
            ("1gi", None),
            ("1.2.3", None),
            ("9999999999999999999", None),
            ("1e99", None),
        ] {
            assert_eq!(bytes(&Quantity(text.to_owned())), expected, "{text:?}");
        }
    }
}
