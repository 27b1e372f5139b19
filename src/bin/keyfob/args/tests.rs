//! Tests of the command line.

use std::time::Duration;

use super::*;

fn parse(line: &[&str]) -> Result<Cli, String> {
    let arguments: Vec<_> = line.iter().map(OsString::from).collect();
    match super::parse(&arguments) {
        Ok(cli) => Ok(cli.expect("help was not asked for")),
        Err(failure) => {
            assert_eq!(failure.exit_code(), 2);
            Err(failure.message())
        }
    }
}

fn refused(line: &[&str]) -> String {
    parse(line).map(|cli| panic!("{cli:?}")).unwrap_err()
}

#[test]
fn manual_lists_every_command() {
    let page = include_str!("../../../manual/guide/command_line.md");
    let (_, table) = page.split_once("\n# Commands\n").unwrap();
    let table = table.lines().skip(1).take_while(|line| line.starts_with('|')).skip(2);
    let listed: Vec<_> = table.map(|row| row.split('`').nth(1).unwrap()).collect();
    let keyfob = command();
    let commands: Vec<_> = keyfob.get_subcommands().map(clap::Command::get_name).collect();
    assert_eq!(listed, commands);
}

#[test]
fn definition_is_consistent() {
    command().debug_assert();
}

#[test]
fn common_options_stand_anywhere() {
    for line in [&["--json", "--timeout", "1.5", "users"], &["users", "--json", "--timeout", "1.5"]]
    {
        let Cli { command, common } = parse(line).unwrap();
        assert!(matches!(command, Command::Users));
        assert!(common.json);
        assert_eq!(common.timeout, Some(Duration::from_millis(1500)));
    }
    let twice = ["--json", "--timeout", "1", "users", "--json", "--timeout", "2"];
    assert_eq!(parse(&twice).unwrap().common.timeout, Some(Duration::from_secs(2)));
}

#[test]
fn function_arguments_are_json_or_strings() {
    let line =
        ["call", "f", "1", "-2.5", "{\"z\":1,\"a\":-1}", "ada", "null", "[1", "--", "--json"];
    let Cli { command, common } = parse(&line).unwrap();
    let Command::Call { name, arguments, .. } = command else { panic!("{command:?}") };
    assert_eq!(name, "f");
    let arguments = serde_json::to_string(&arguments.arguments).unwrap();
    assert_eq!(arguments, r#"[1,-2.5,{"z":1,"a":-1},"ada",null,"[1","--json"]"#);
    assert!(!common.json);
}

#[test]
fn mailed_token_may_begin_with_hyphen() {
    let line = ["confirm", "--token", "-a ", "--token-id", "-b"];
    let Command::Confirm(pair) = parse(&line).unwrap().command else { panic!() };
    assert_eq!((pair.token.expose(), &*pair.token_id), ("-a", "-b"));
}

#[test]
fn unusable_command_lines_are_refused() {
    for line in [
        &[][..],
        &["--json"],
        &["frobnicate"],
        &["confirm", "--token", "t"],
        &["confirm", "--token-id", "i"],
        &["reset-password"],
        &["login", "--jwt", "--api-key"],
        &["login", "--function", "7"],
        &["login", "--function", "{"],
        &["link"],
        &["link", "--anonymous"],
        &["link", "--anonymous", "--new"],
        &["api-keys"],
        &["api-keys", "burn", "id"],
        &["api-keys", "create"],
        &["api-keys", "list", "id"],
        &["profile", "--fresh"],
        &["serve", "--jwt-jwks", "http://127.0.0.1:1", "--jwt-secret-file", "f"],
        &["whoami", "--new"],
        &["switch"],
        &["switch", "a", "b"],
        &["register"],
        &["login"],
        &["login", "--new"],
        &["login", "--email"],
        &["login", "--email", "a", "--anonymous"],
        &["login", "--email", "a", "--new"],
        &["login", "--anonymous=yes"],
        &["call"],
        &["call", "f", "--option"],
        &["serve", "--addr", "nowhere"],
        &["serve", "--addr", "0.0.0.0:0"],
        &["serve", "--app", "dir"],
        &["serve", "--access-ttl", "0"],
        &["serve", "--access-ttl", "1.5"],
        &["serve", "--refresh-ttl", "18446744073709551616"],
        &["serve", "--data", ""],
        &["serve", "--test-idp", "--public-url", "https://h"],
        &["serve", "--oidc"],
        &["serve", "--base-url", "http://127.0.0.1:1"],
        &["demo", "--store", "dir"],
        &["--store", "dir", "demo"],
        &["users", "--store", ""],
        &["users", "--timeout", "-1"],
        &["users", "--timeout", "nan"],
        &["users", "--timeout", "inf"],
        &["users", "--timeout", "1e30"],
        &["users", "--timeout", "soon"],
    ] {
        assert!(refused(line).contains("--help"), "{line:?}");
    }
}

/// Puts a secret in every wrong place of every command, and text that looks like a command or
/// an option.
#[test]
fn misplaced_secrets_are_not_repeated() {
    let secret = "hunter22";
    let mut refusals = 0;
    let mut check = |line: &[&str]| {
        let arguments: Vec<_> = line.iter().map(OsString::from).collect();
        if let Err(failure) = super::parse(&arguments) {
            let message = failure.message();
            assert!(!message.contains(secret), "{line:?}: {message}");
            refusals += 1;
        }
    };
    let keyfob = command();
    let mut paths = vec![(vec![], &keyfob)];
    for top in keyfob.get_subcommands() {
        paths.push((vec![top.get_name()], top));
        let subs = top.get_subcommands();
        paths.extend(subs.map(|sub| (vec![top.get_name(), sub.get_name()], sub)));
    }
    for (path, subcommand) in &paths {
        let options = subcommand.get_arguments().filter_map(clap::Arg::get_long);
        let mut words: Vec<_> = options.map(|name| format!("--{name}={secret}")).collect();
        words.extend(["", "-x", "--", "--password=", "--\u{1b}"].map(|it| format!("{it}{secret}")));
        for word in &words {
            check(&[&path[..], &[word]].concat());
            check(&[&path[..], &["a", "b", word]].concat());
            check(&[&path[..], &["--email", "a", word]].concat());
        }
        check(&[&path[..], &["--", secret, secret, secret]].concat());
    }
    for line in [
        &["login", "--email", "ada@example.org", "--password", secret][..],
        &["login", "--api-key", secret],
        &["login", "--function", secret],
        &["link", "--apple", secret],
        &["complete-reset", "--token", "t", "--token-id", "i", secret],
        &["api-keys", "create", "ci", secret],
    ] {
        refused(line);
        check(line);
    }
    assert!(refusals > 400, "{refusals}");
}
