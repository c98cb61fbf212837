use super::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};

fn scalar(text: &str) -> Value {
    Value::Scalar { text: text.to_owned(), plain: true }
}

fn error(text: &str) -> String {
    parse("f.yaml", text).expect_err("must be refused").to_string()
}

#[test]
fn a_document_keeps_its_lines() {
    let node = parse("f.yaml", "a: 1\n\nb:\n  - x\n  - 'true'\nc: ~\n").unwrap();
    let Value::Map(entries) = &node.value else { panic!("{node:?}") };
    assert_eq!((entries[0].line, &entries[0].value.value), (1, &scalar("1")));
    let Value::List(items) = &entries[1].value.value else { panic!("{entries:?}") };
    assert_eq!((items[1].line, &items[1].value), (5, &Value::Scalar { text: "true".into(), plain: false }));
    assert_eq!(entries[2].value.value, Value::Null);
    assert_eq!(parse("f.yaml", "# nothing\n").unwrap().value, Value::Null);
}

#[test]
fn anchors_and_merge_keys_are_expanded() {
    let node = parse("f.yaml", "base: &b {x: 1, y: 2}\nweb:\n  <<: *b\n  y: 3\nagain: *b\n").unwrap();
    let Value::Map(entries) = &node.value else { panic!("{node:?}") };
    let Value::Map(web) = &entries[1].value.value else { panic!("{node:?}") };
    let pairs: Vec<(&str, &Value)> = web.iter().map(|e| (e.key.as_str(), &e.value.value)).collect();
    assert_eq!(pairs, [("y", &scalar("3")), ("x", &scalar("1"))]);
    assert_eq!(entries[2].value.line, 5);
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    for (text, want) in [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3: a: is written twice, first on line 1: keep one"),
        ("a: !thing 1\n", "f.yaml:1: the tag !thing has no meaning here: leave it out"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2: a second document begins: use one file for each"),
        ("a:\n  <<: 5\n", "f.yaml:2: <<: must be a mapping or a list of them"),
        ("? [a]\n: 1\n", "f.yaml:1: a key must be a single value"),
    ] {
        assert_eq!(error(text), want);
    }
    let broken = error("a:\n  - b\n c: [\n");
    assert!(broken.starts_with("f.yaml:3: is no YAML: "), "{broken}");
}

#[test]
fn bombs_end_at_the_bounds() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let refs = vec![format!("*a{}", i - 1); 9].join(", ");
        bomb.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
    }
    assert!(error(&bomb).contains("too large once its aliases are expanded"), "{}", error(&bomb));
    let mut chain = String::from("- &a0 [x]\n");
    for i in 1..80 {
        chain.push_str(&format!("- &a{i} [*a{}]\n", i - 1));
    }
    assert!(error(&chain).contains("nested deeper than 64"));
    assert!(error(&"[".repeat(100_000)).contains("f.yaml:1"));
    assert!(error(&"x".repeat(MAX_BYTES + 1)).contains("larger than 4 MiB"));
    let text = format!("t: &t {}\nl: [{}]\n", "y".repeat(1 << 20), vec!["*t"; 1000].join(","));
    assert!(error(&text).contains("too large once"));
}

/// Random and mutated documents: an answer or an error, never a panic.
#[test]
fn garbage_never_panics() {
    let seed = 0x5EED_0001;
    println!("seed {seed:#x}");
    let mut rng = StdRng::seed_from_u64(seed);
    let sample = "name: shop\nservices: &s\n  web:\n    ports: ['80:80', \"53:53/udp\"]\n    x: {a: [1, *s], b: ~}\n  q: |\n    text\n";
    let alphabet: Vec<char> = " \n\t:-[]{}&*!|>'\"%@`#,?~<0aé\u{0}\u{feff}\\".chars().collect();
    for round in 0..4000 {
        let text: String = if round % 2 == 0 {
            (0..rng.random_range(0..80)).map(|_| alphabet[rng.random_range(0..alphabet.len())]).collect()
        } else {
            let mut chars: Vec<char> = sample.chars().collect();
            for _ in 0..rng.random_range(1..6) {
                let at = rng.random_range(0..chars.len());
                match rng.random_range(0..3) {
                    0 => chars[at] = alphabet[rng.random_range(0..alphabet.len())],
                    1 => drop(chars.remove(at)),
                    _ => chars.insert(at, alphabet[rng.random_range(0..alphabet.len())]),
                }
            }
            chars.into_iter().collect()
        };
        if let Err(problems) = parse("f.yaml", &text) {
            assert!(!problems.0.is_empty(), "{text:?}");
        }
    }
}
