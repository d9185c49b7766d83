//! Secrets come from files: mounted Secrets, or what the standalone process wrote on its first start. They are looked at
//! again while control runs. An error names the file and what it should hold, never what it holds.

use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use proto::grant::GrantSigner;
use runtime::reload::{Content, FileError, Files, Reloading};
use zeroize::Zeroizing;

/// The signer of a file as [`encode_grant_key`] writes it; follows the file.
pub(crate) fn watch_grant_signer(path: PathBuf) -> Result<Reloading<GrantSigner>, FileError> {
    let expected = "an Ed25519 private key (PKCS#8) as PEM";
    Reloading::watch_text("grant key", path, expected, decode_grant_key)
}

/// A file with the password on its first line, and what it is now; nothing else of it is looked at.
pub(crate) fn read_password(path: &Path) -> Result<(Files, Zeroizing<String>), FileError> {
    let (files, contents) = Files::read(vec![path.to_owned()])?;
    Ok((files, password(&contents)?))
}

/// The password of a file that [`read_password`] opened.
pub(crate) fn password(contents: &[Content]) -> Result<Zeroizing<String>, FileError> {
    let [content] = contents else {
        unreachable!("one file was named");
    };
    content.parse("a password on the first line", |text| {
        let password = text.lines().next().filter(|password| !password.is_empty());
        password.map(|password| Zeroizing::new(password.to_owned()))
    })
}

/// The content of a grant key file: PEM around a PKCS#8 private key (DER).
pub fn encode_grant_key(pkcs8: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(BASE64.encode(pkcs8));
    Zeroizing::new(format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        *body
    ))
}

fn decode_grant_key(text: &str) -> Option<GrantSigner> {
    let body: Zeroizing<String> = Zeroizing::new(
        text.lines()
            .map(str::trim)
            .filter(|line| !line.starts_with("-----"))
            .collect(),
    );
    let pkcs8 = Zeroizing::new(BASE64.decode(body.as_bytes()).ok()?);
    GrantSigner::from_pkcs8(&pkcs8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_key_survives_its_file() {
        let pkcs8 = GrantSigner::generate_pkcs8().unwrap();
        let public_key = GrantSigner::from_pkcs8(&pkcs8).unwrap().public_key();
        assert_eq!(
            decode_grant_key(&encode_grant_key(&pkcs8))
                .unwrap()
                .public_key(),
            public_key
        );
    }

    #[tokio::test]
    async fn an_error_names_the_file_and_not_its_content() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "c2VjcmV0").unwrap();
        let error = watch_grant_signer(file.path().to_owned());
        let error = error.err().unwrap().to_string();
        assert!(error.contains(file.path().to_str().unwrap()), "{error}");
        assert!(!error.contains("c2VjcmV0"), "{error}");
    }
}
