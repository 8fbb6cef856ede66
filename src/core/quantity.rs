//! Kubernetes quantities, as far as comparing them goes.

use std::cmp::Ordering;

/// An amount, in units of 10⁻⁹.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Quantity(i128);

/// Units of one.
const ONE: i128 = 1_000_000_000;

impl Quantity {
    /// Reads a quantity such as `50m`, `0.5`, `16Mi` or `1e3`. `None` if it is none, or needs more
    /// than 10⁻⁹ precision, which Kubernetes rounds away.
    ///
    /// Source: Kubernetes' documentation of `Quantity` (apimachinery, `resource.Quantity`).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let end = text
            .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '+' || c == '-'))
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at_checked(end)?;
        decimal(number)?.checked_mul(multiplier(suffix)?)?.checked_div(ONE).map(Self)
    }

    /// How `a` compares with `b`, where both are quantities.
    pub(crate) fn compare(a: &str, b: &str) -> Option<Ordering> {
        Some(Self::parse(a)?.cmp(&Self::parse(b)?))
    }

    /// Whether `limit` is more than `ratio` times `request`.
    pub(crate) fn exceeds(limit: &str, request: &str, ratio: &str) -> Option<bool> {
        let (limit, request, ratio) =
            (Self::parse(limit)?, Self::parse(request)?, Self::parse(ratio)?);
        Some(limit.0.checked_mul(ONE)? > request.0.checked_mul(ratio.0)?)
    }
}

/// A decimal number, in units of 10⁻⁹.
fn decimal(text: &str) -> Option<i128> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let nine = format!("{fraction:0<9}");
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction: i128 = nine.get(..9)?.parse().ok()?;
    whole.checked_mul(ONE)?.checked_add(fraction).map(|amount| sign * amount)
}

/// What the suffix multiplies by, in units of 10⁻⁹.
fn multiplier(suffix: &str) -> Option<i128> {
    let binary = |power: u32| 1024_i128.checked_pow(power)?.checked_mul(ONE);
    let tens = |power: u32| 10_i128.checked_pow(power)?.checked_mul(ONE);
    match suffix {
        "n" => Some(1),
        "u" => Some(1_000),
        "m" => Some(1_000_000),
        "" => Some(ONE),
        "k" => tens(3),
        "M" => tens(6),
        "G" => tens(9),
        "T" => tens(12),
        "P" => tens(15),
        "E" => tens(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => match suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok()? {
            power @ 0..=18 => tens(power.unsigned_abs()),
            power @ -9..0 => 10_i128.checked_pow(9_u32.checked_sub(power.unsigned_abs())?),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_compared_whatever_their_suffix() {
        for (a, b) in [
            ("1", "1000m"),
            ("0.5", "500m"),
            ("16Mi", "16777216"),
            ("1e3", "1k"),
            ("1E3", "1k"),
            ("1e-3", "1m"),
            (".5", "500m"),
            ("+1", "1"),
        ] {
            assert_eq!(Quantity::compare(a, b), Some(Ordering::Equal), "{a} {b}");
        }
        assert_eq!(Quantity::compare("5m", "50m"), Some(Ordering::Less));
        assert_eq!(Quantity::compare("16Mi", "16M"), Some(Ordering::Greater));
    }

    #[test]
    fn what_is_no_quantity_compares_with_nothing() {
        for text in ["", "m", "1x", "1mm", "--1", "1.2.3", "1e", "1e99", "９", "lots", "."] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_ratio_is_exceeded_only_beyond_it() {
        assert_eq!(Quantity::exceeds("100m", "5m", "20"), Some(false));
        assert_eq!(Quantity::exceeds("100m", "5m", "19"), Some(true));
    }
}
