//! `llq completions` and `llq man`: every command is in them.

use crate::harness::Place;

fn commands(place: &Place) -> Vec<String> {
    let help = place.run("--help").ok().stdout;
    let lines = help.lines().skip_while(|line| *line != "Make a model:");
    let lines = lines.take_while(|line| *line != "Everywhere:");
    let names = lines.filter_map(|line| {
        let name = line.strip_prefix("  ")?.split_whitespace().next()?;
        (!line.starts_with("   ") && name != "help").then(|| name.to_owned())
    });
    let names: Vec<String> = names.collect();
    assert!(names.len() > 15, "{names:?}");
    names
}

#[test]
fn scripts_know_every_command() {
    let place = Place::new();
    let commands = commands(&place);
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = place.run(&format!("completions {shell}")).ok().stdout;
        for command in &commands {
            assert!(script.contains(command.as_str()), "{shell}: no {command}");
        }
        assert!(script.contains("--on-overflow") || script.contains("on-overflow"), "{shell}");
    }
    place.run("completions tcsh").refused(&["tcsh"]);
}

#[test]
fn every_command_has_a_page() {
    let place = Place::new();
    std::fs::create_dir(place.path("man")).unwrap();
    place.run("man --all man").ok();
    for command in commands(&place) {
        let page = std::fs::read_to_string(place.path(&format!("man/llq-{command}.1"))).unwrap();
        assert!(page.contains(".SH OPTIONS") || page.contains(".SH SYNOPSIS"), "{page}");
        assert_eq!(place.run(&format!("man {command}")).ok().stdout, page);
    }
    assert!(place.run("man").ok().stdout.contains(".TH"));
    place.run("man nothing").refused(&["nothing"]);
}
