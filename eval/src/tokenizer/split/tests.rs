use super::*;

fn words<'t>(stages: &[Stage], text: &'t str) -> Vec<&'t str> {
    let mut words = Vec::new();
    split(text, stages, &mut |word| words.push(word));
    assert_eq!(words.concat(), text);
    words
}

#[test]
fn gpt_2_words() {
    let cases: [(&str, &[&str]); 9] = [
        ("", &[]),
        ("Hello, y'all's 'Round", &["Hello", ",", " y", "'", "all", "'s", " '", "Round"]),
        ("I'LL we'll", &["I", "'", "LL", " we", "'ll"]),
        ("x  1234 ½", &["x", " ", " 1234", " ½"]),
        ("a   \n\nb", &["a", "   \n", "\n", "b"]),
        ("end \n ", &["end", " \n "]),
        ("\u{A0}\u{A0}a", &["\u{A0}", "\u{A0}", "a"]),
        (" é\u{301}x", &[" é", "\u{301}", "x"]),
        ("'", &["'"]),
    ];
    for (text, expected) in cases {
        assert_eq!(words(&[gpt2], text), expected, "{text:?}");
    }
}

#[test]
fn llama_3_words() {
    let cases: [(&str, &[&str]); 9] = [
        ("", &[]),
        ("I'LL we'll 'Round", &["I", "'LL", " we", "'ll", " '", "Round"]),
        ("x  12345", &["x", " ", " ", "123", "45"]),
        ("a \n \n b", &["a", " \n \n", " b"]),
        ("f();\r\n\tx", &["f", "();\r\n", "\tx"]),
        ("a   b ", &["a", "  ", " b", " "]),
        ("\"Why?\"", &["\"Why", "?\""]),
        ("\nno", &["\n", "no"]),
        ("\u{2003}\u{2003}no", &["\u{2003}", "\u{2003}no"]),
    ];
    for (text, expected) in cases {
        assert_eq!(words(&[llama3], text), expected, "{text:?}");
    }
    assert_eq!(words(&[qwen2], "x12 3"), ["x", "1", "2", " ", "3"]);
}

#[test]
fn tekken_words() {
    let cases: [(&str, &[&str]); 7] = [
        ("camelCase HTTPServer", &["camel", "Case", " HTTPServer"]),
        ("ABC abC", &["ABC", " ab", "C"]),
        ("/usr/bin://\nx", &["/usr", "/bin", "://\n", "x"]),
        ("I'll 12", &["I", "'ll", " ", "1", "2"]),
        ("中AA", &["中", "AA"]),
        ("中文a", &["中文a"]),
        ("\u{301} \u{301}a", &["\u{301}", " \u{301}a"]),
    ];
    for (text, expected) in cases {
        assert_eq!(words(&[tekken], text), expected, "{text:?}");
    }
}

#[test]
fn later_stages_see_nothing_beyond_their_piece() {
    let starcoder: &[Stage] = &[single_numbers, gpt2];
    assert_eq!(words(starcoder, "a  12b\u{660}"), ["a", "  ", "1", "2", "b", "\u{660}"]);
    let default: &[Stage] = &[punctuation_runs, gpt2, number_runs, digit_triples];
    assert_eq!(
        words(default, "it's 12345 $?! ٣٣٣٣ 1a"),
        ["it", "'", "s", " ", "123", "45", " ", "$?!", " ", "٣٣٣٣", " ", "1", "a"]
    );
}

#[test]
fn every_stage_advances_on_any_character() {
    let stages: [Stage; 8] =
        [gpt2, llama3, qwen2, tekken, single_numbers, number_runs, digit_triples, punctuation_runs];
    let first = "a1 \n'.\u{301}\u{85}\u{1F999}\u{E000}\u{10FFFF}\u{1C5}\u{2B0}中½";
    for stage in stages {
        for (start, character) in first.char_indices() {
            for follower in ["", " ", "\n", "a", "A", "1", "'", "\u{301}"] {
                let text = format!("{character}{follower}{}", &first[start..]);
                let len = stage(&text);
                assert!(len > 0 && text.is_char_boundary(len), "{text:?}: {len}");
            }
        }
    }
}

#[test]
fn long_runs_are_no_slower_than_prose() {
    for text in ["a", " ", "\n", "'", "1", "A", "中", "中A", " \n", "\u{301}", "a ", "'S"] {
        let text = text.repeat(1 << 19);
        for stage in [gpt2, llama3, tekken, digit_triples, punctuation_runs] {
            words(&[stage], &text);
        }
    }
}
