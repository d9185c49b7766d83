//! The gRPC contract stays readable for those who have an older one: edges of the last version beside a new control and
//! new origins, and every client out there. `proto/baseline.txt` is what they know: one line for each field, enum value
//! and call. Nothing in it may go or change; what is new is added to it.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "in a test a panic is the report"
)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    ServiceDescriptorProto, field_descriptor_proto::Label,
};

/// By what is written on the wire (the number of a field, the path of a call): what it means.
type Contract = BTreeMap<String, String>;

#[test]
fn an_older_peer_understands_the_contract() {
    let now = contract(&compile(&proto_root()));
    let known = parse(&fs::read_to_string(proto_root().join("baseline.txt")).unwrap());
    let broken = broken(&known, &now);
    // The baseline to come, for whoever changed the contract on purpose.
    let proposal = tests::binary::target_directory().join("proto-baseline.txt");
    fs::write(&proposal, render(&now)).unwrap();
    assert!(
        broken.is_empty(),
        "older peers would misread this (a field may be added, and left unused; see {}):\n{}",
        proposal.display(),
        broken.join("\n")
    );
    assert!(
        known == now,
        "the contract has grown; add it to what has to stay:\n  cp {} {}",
        proposal.display(),
        proto_root().join("baseline.txt").display()
    );
}

#[test]
fn a_change_that_breaks_an_older_peer_is_found() {
    let before = contract(&sample(
        "message A { string b = 1; int32 c = 2; repeated int32 d = 3; } enum E { Z = 0; Y = 1; }
         service S { rpc R(A) returns (stream A); }",
    ));
    let broken_by = |text: &str| broken(&before, &contract(&sample(text))).len();
    let others = "enum E { Z = 0; Y = 1; } service S { rpc R(A) returns (stream A); }";
    let message = |fields: &str| broken_by(&format!("message A {{ {fields} }} {others}"));
    assert_eq!(
        message("string b = 1; int32 c = 2; repeated int32 d = 3; bool e = 4;"),
        0
    );
    assert_eq!(
        message("string b = 1; optional int32 c = 2; repeated int32 d = 3;"),
        0
    );
    // Removed, renumbered, of another type, of another name, no longer repeated, moved into a choice.
    assert_eq!(message("string b = 1; int32 c = 2;"), 1);
    assert_eq!(
        message("string b = 1; int32 c = 4; repeated int32 d = 3;"),
        1
    );
    assert_eq!(
        message("bytes b = 1; int32 c = 2; repeated int32 d = 3;"),
        1
    );
    assert_eq!(
        message("string x = 1; int32 c = 2; repeated int32 d = 3;"),
        1
    );
    assert_eq!(message("string b = 1; int32 c = 2; int32 d = 3;"), 1);
    assert_eq!(
        message("oneof o { string b = 1; int32 c = 2; } repeated int32 d = 3;"),
        2
    );
    let fields = "message A { string b = 1; int32 c = 2; repeated int32 d = 3; }";
    let rest = |rest: &str| broken_by(&format!("{fields} {rest}"));
    assert_eq!(
        rest("enum E { Z = 0; } service S { rpc R(A) returns (stream A); }"),
        1
    );
    assert_eq!(
        rest("enum E { Z = 0; Y = 1; } service S { rpc R(A) returns (A); }"),
        1
    );
    assert_eq!(rest("enum E { Z = 0; Y = 1; }"), 1);
}

/// What is in the older contract and not, or differently, in the newer.
fn broken(older: &Contract, newer: &Contract) -> Vec<String> {
    let differs = |(place, meaning): (&String, &String)| match newer.get(place) {
        Some(now) if now == meaning => None,
        // Whether a value was given at all is more than an older peer asks: what it reads is the same.
        Some(now) if now.strip_prefix("optional ") == Some(meaning) => None,
        Some(now) => Some(format!("{place} = {meaning}, now {now}")),
        None => Some(format!("{place} = {meaning}, now gone")),
    };
    older.iter().filter_map(differs).collect()
}

fn render(contract: &Contract) -> String {
    let line = |(place, meaning)| format!("{place} = {meaning}\n");
    contract.iter().map(line).collect()
}

fn parse(text: &str) -> Contract {
    let line = |line: &str| {
        let (place, meaning) = line.split_once(" = ").expect("PLACE = MEANING");
        (place.to_owned(), meaning.to_owned())
    };
    text.lines().map(line).collect()
}

fn contract(files: &[FileDescriptorProto]) -> Contract {
    let mut contract = Contract::new();
    for file in files {
        let package = file.package();
        for message in &file.message_type {
            add_message(&mut contract, package, message);
        }
        for values in &file.enum_type {
            add_enum(&mut contract, package, values);
        }
        for service in &file.service {
            add_service(&mut contract, package, service);
        }
    }
    contract
}

fn add_message(contract: &mut Contract, scope: &str, message: &DescriptorProto) {
    let name = format!("{scope}.{}", message.name());
    for field in &message.field {
        let place = format!("{name} {:>5}", field.number());
        contract.insert(place, meaning(message, field));
    }
    for nested in &message.nested_type {
        add_message(contract, &name, nested);
    }
    for values in &message.enum_type {
        add_enum(contract, &name, values);
    }
}

/// As a `.proto` file has it, without the number.
fn meaning(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let label = match field.label() {
        Label::Optional if field.proto3_optional() => "optional ".to_owned(),
        Label::Optional => match field.oneof_index {
            Some(index) => {
                let choice = &message.oneof_decl[usize::try_from(index).unwrap()];
                format!("oneof {} ", choice.name())
            }
            None => String::new(),
        },
        Label::Repeated => "repeated ".to_owned(),
        Label::Required => "required ".to_owned(),
    };
    let kind = match &field.type_name {
        Some(name) => name.clone(),
        None => field.r#type().as_str_name().to_owned(),
    };
    format!("{label}{kind} {}", field.name())
}

fn add_enum(contract: &mut Contract, scope: &str, values: &EnumDescriptorProto) {
    for value in &values.value {
        let place = format!("{scope}.{} {:>5}", values.name(), value.number());
        contract.insert(place, value.name().to_owned());
    }
}

fn add_service(contract: &mut Contract, package: &str, service: &ServiceDescriptorProto) {
    for method in &service.method {
        let stream = |streams: bool| if streams { "stream " } else { "" };
        contract.insert(
            format!("/{package}.{}/{}", service.name(), method.name()),
            format!(
                "{}{} → {}{}",
                stream(method.client_streaming()),
                method.input_type(),
                stream(method.server_streaming()),
                method.output_type()
            ),
        );
    }
}

/// Every file of the contract.
fn compile(root: &Path) -> Vec<FileDescriptorProto> {
    let mut files = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|kind| kind == "proto") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 5, "{files:?}");
    let ours = |file: &FileDescriptorProto| file.package().starts_with("headwater.");
    let descriptors = protox::compile(files, [root]).unwrap();
    descriptors.file.into_iter().filter(ours).collect()
}

/// One file with these definitions.
fn sample(definitions: &str) -> Vec<FileDescriptorProto> {
    let directory = tempfile::tempdir().unwrap();
    let text = format!("syntax = \"proto3\"; package sample; {definitions}");
    fs::write(directory.path().join("sample.proto"), text).unwrap();
    let descriptors = protox::compile(["sample.proto"], [directory.path()]).unwrap();
    descriptors.file
}

fn proto_root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().join("proto")
}
