//! Did you mean?

/// The one of `known` that is nearest to `text`, if near enough to be a slip of the finger: at most one edit in three
/// characters, and never more than three; else the only one that `text` begins.
pub(super) fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let text: String = text.chars().take(64).collect::<String>().to_ascii_lowercase();
    let most = (text.chars().count() / 3).clamp(1, 3);
    let known: Vec<&str> = known.into_iter().collect();
    let near = known.iter().map(|k| (distance(&text, k), *k)).filter(|(d, _)| *d <= most).min();
    let mut begun = known.iter().copied().filter(|k| text.len() > 2 && k.starts_with(&text));
    near.map(|(_, k)| k).or_else(|| begun.next().filter(|_| begun.next().is_none()))
}

/// Optimal string alignment distance: inserts, deletes, replacements and swaps of neighbours cost one each.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_strangers_are_not() {
        let known = ["ports", "expose", "healthcheck", "x-mesh", "ttl"];
        for (text, want) in [
            ("port", Some("ports")),
            ("prots", Some("ports")),
            ("healtcheck", Some("healthcheck")),
            ("xmesh", Some("x-mesh")),
            ("Ports", Some("ports")),
            ("health", Some("healthcheck")),
            ("banana", None),
            ("", None),
        ] {
            assert_eq!(nearest(text, known), want, "{text}");
        }
    }
}
