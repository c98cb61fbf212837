//! Ways that are laid several times and take turns: two that are laid alike differ by some hundredths, as their memory lies.

/// How often each way is laid.
pub(super) const LAID: usize = 4;

/// The order of a turn: nobody is always first, nor always after the same.
pub(super) fn mix<T>(ways: &mut [T], turn: usize) {
    let by = (1 + turn) % ways.len();
    ways.rotate_left(by);
    ways.reverse();
}

/// One figure of them, each of one time that a way was laid.
pub(super) fn mean(each: &[f64]) -> f64 {
    each.iter().sum::<f64>() / each.len() as f64
}

/// All of them, in order, with so many decimals.
pub(super) fn listed(mut each: Vec<f64>, decimals: usize) -> String {
    each.sort_by(f64::total_cmp);
    each.iter().map(|one| format!("{one:.decimals$}")).collect::<Vec<_>>().join(" ")
}
