//! TLS as encoders meet it: a certificate for each server name, client certificates where they are asked for, and both
//! as their files are now.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{ServerConfig, crypto::CryptoProvider};
use tracing::{info, warn};

use super::{
    CertificateFiles, ClientCertificates, TlsError,
    certificate_set::{CertificateSet, NameMatch, Named},
    client_certificates::Trust,
    identity_files::Identity,
    provider, refuse_resumption,
};
use crate::reload::{Content, Files};

/// Between two looks at the files: one `stat` each where nothing changed.
pub const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// Certificates beside the default; what is behind them in the directory is not served.
pub const CERTIFICATES_MAX: usize = 1000;
/// The default's name in metrics and logs.
const DEFAULT: &str = "public";

/// What a listener for encoders is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderTlsFiles {
    /// For clients that send no server name, or one that no other certificate has.
    pub default: CertificateFiles,
    /// A directory of further ones: pairs `NAME.crt` and `NAME.key`, or directories `NAME` with `tls.crt` and `tls.key`.
    pub others: Option<PathBuf>,
    /// Certificates of encoders.
    pub client_certificates: ClientCertificates,
    /// The oldest version of TLS.
    pub minimum_version: MinimumVersion,
}

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinimumVersion {
    /// Hardware and OBS before 30 speak no other.
    #[default]
    Tls12,
    /// RFC 8446 alone.
    Tls13,
}

/// Follows its files for as long as a handle lives. A cheap handle.
#[derive(Clone)]
pub struct EncoderTls {
    current: Arc<ArcSwap<Version>>,
}

/// What the files said when they were last good.
struct Version {
    config: Arc<ServerConfig>,
    certificates: Arc<CertificateSet>,
    next_updates: Vec<(String, i64)>,
    /// Pairs and lists whose files cannot be used as they are now.
    unusable: usize,
}

impl EncoderTlsFiles {
    /// One certificate, and nothing asked of clients.
    pub fn of(default: CertificateFiles) -> Self {
        Self {
            default,
            others: None,
            client_certificates: ClientCertificates::default(),
            minimum_version: MinimumVersion::default(),
        }
    }
}

impl EncoderTls {
    /// Loads the files now and watches them. Fails where the default or the CAs of client certificates cannot be used;
    /// one of the other certificates costs itself alone. Must be called inside a tokio runtime.
    pub fn load(files: EncoderTlsFiles) -> Result<Self, TlsError> {
        let mut watcher = Watcher::new(files)?;
        watcher.look_at_directory();
        let version = watcher.version()?;
        report_overlaps(&version.certificates, &BTreeSet::new());
        let current = Arc::new(ArcSwap::from_pointee(version));
        let weak = Arc::downgrade(&current);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK_PERIOD).await;
                let weak = weak.clone();
                // A rotation of hundreds takes milliseconds of parsing.
                let looked = tokio::task::spawn_blocking(move || watcher.look(&weak));
                match looked.await {
                    Ok(Some(after)) => watcher = after,
                    Ok(None) | Err(_) => return,
                }
            }
        });
        Ok(Self { current })
    }

    /// To be asked for per connection: it changes with the files. **No TLS 1.3 tickets** (librtmp-family clients die on
    /// them) and no session storage: connections live for hours.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.current.load().config.clone()
    }

    /// How a server name finds its certificate.
    pub fn name_match(&self, server_name: Option<&str>) -> NameMatch {
        self.current.load().certificates.name_match(server_name)
    }

    /// Of every certificate in service: its name, and `notAfter` in seconds since the Unix epoch.
    pub fn ends(&self) -> Vec<(String, i64)> {
        self.current.load().certificates.ends.clone()
    }

    /// Of every file of revocation lists in service: its name, and `nextUpdate` in seconds since the Unix epoch.
    pub fn next_updates(&self) -> Vec<(String, i64)> {
        self.current.load().next_updates.clone()
    }

    /// Pairs and lists whose files cannot be used as they are now; what they last held stays in service.
    pub fn unusable(&self) -> usize {
        self.current.load().unusable
    }
}

impl fmt::Debug for EncoderTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncoderTls")
            .field("certificates", &self.ends().len())
            .finish_non_exhaustive()
    }
}

/// Knows the files, and what they held when they were last good.
struct Watcher {
    default: Pair,
    /// Of the directory, by name.
    others: BTreeMap<String, Pair>,
    directory: Option<Directory>,
    clients: Clients,
    minimum_version: MinimumVersion,
    provider: Arc<CryptoProvider>,
}

/// Where the other certificates are.
struct Directory {
    path: PathBuf,
    /// That it cannot be read is told once.
    told: bool,
    /// Pairs above the limit.
    left_out: usize,
}

/// Two files, and the last good pair that they were.
struct Pair {
    paths: CertificateFiles,
    files: Option<Files>,
    identity: Option<Arc<Identity>>,
    unusable: bool,
}

/// The files of client certificates, and what they last said.
struct Clients {
    mode: ClientCertificates,
    files: Option<Files>,
    trust: Option<Trust>,
    /// Lists that are past their next update; each is told once.
    outdated: BTreeSet<String>,
    unusable: bool,
}

impl Watcher {
    fn new(files: EncoderTlsFiles) -> Result<Self, TlsError> {
        let provider = provider();
        let default = Pair::load(files.default)?;
        if let Some(directory) = &files.others {
            std::fs::read_dir(directory).map_err(|reason| TlsError::File {
                path: directory.clone(),
                reason: reason.to_string(),
            })?;
        }
        Ok(Self {
            default,
            others: BTreeMap::new(),
            directory: files.others.map(|path| Directory {
                path,
                told: false,
                left_out: 0,
            }),
            clients: Clients::load(files.client_certificates, &provider)?,
            minimum_version: files.minimum_version,
            provider,
        })
    }

    /// Gives itself back while somebody needs it.
    fn look(mut self, current: &Weak<ArcSwap<Version>>) -> Option<Self> {
        let current = current.upgrade()?;
        let unusable = self.unusable();
        let mut changed = self.default.look(DEFAULT);
        changed |= self.look_at_directory();
        changed |= self.clients.look(&self.provider);
        self.clients.report_outdated(SystemTime::now());
        if changed || unusable != self.unusable() {
            match self.version() {
                Ok(version) => {
                    let known = current.load().certificates.overlaps.clone();
                    report_overlaps(&version.certificates, &known);
                    current.store(Arc::new(version));
                }
                Err(error) => warn!(%error, "the TLS configuration stays as it was"),
            }
        }
        Some(self)
    }

    /// Pairs that came, changed and went. Whether there was any.
    fn look_at_directory(&mut self) -> bool {
        let Some(directory) = &mut self.directory else {
            return false;
        };
        let mut there = match pairs_in(&directory.path) {
            Ok(there) => there,
            Err(error) => {
                if !std::mem::replace(&mut directory.told, true) {
                    warn!(directory = %directory.path.display(), %error, "the certificates stay as they were");
                }
                return false;
            }
        };
        directory.told = false;
        let left_out = there.len().saturating_sub(CERTIFICATES_MAX);
        if std::mem::replace(&mut directory.left_out, left_out) < left_out {
            warn!(directory = %directory.path.display(), left_out, "more than {CERTIFICATES_MAX} certificates: the last ones are not served");
        }
        while there.len() > CERTIFICATES_MAX {
            there.pop_last();
        }
        let mut changed = false;
        self.others.retain(|name, pair| {
            let stays = there.get(name) == Some(&pair.paths);
            if !stays {
                info!(certificate = name, "the certificate is gone");
                changed = true;
            }
            stays
        });
        for (name, paths) in there {
            let new = || {
                info!(certificate = name, "a new certificate");
                Pair::new(paths)
            };
            let pair = self.others.entry(name.clone()).or_insert_with(new);
            changed |= pair.look(&name);
        }
        changed
    }

    fn version(&self) -> Result<Version, TlsError> {
        let default = self.default.named(DEFAULT);
        let others = self.others.iter();
        let others = others.filter_map(|(name, pair)| pair.named(name));
        let Some(default) = default else {
            return Err(rustls::Error::General("no default certificate".to_owned()).into());
        };
        let certificates = Arc::new(CertificateSet::new(default, others));
        let versions: &[_] = match self.minimum_version {
            MinimumVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            MinimumVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let builder = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(versions)?;
        let trust = self.clients.trust.as_ref();
        let builder = match trust {
            Some(trust) => builder.with_client_cert_verifier(trust.verifier.clone()),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(certificates.clone());
        refuse_resumption(&mut config);
        Ok(Version {
            config: Arc::new(config),
            certificates,
            next_updates: trust
                .map(|trust| trust.next_updates.clone().into_iter().collect())
                .unwrap_or_default(),
            unusable: self.unusable(),
        })
    }

    fn unusable(&self) -> usize {
        let pairs = self.others.values().chain([&self.default]);
        let pairs = pairs.filter(|pair| pair.unusable).count();
        let left_out = self.directory.as_ref().map(|directory| directory.left_out);
        pairs + left_out.unwrap_or_default() + usize::from(self.clients.unusable)
    }
}

impl Pair {
    fn new(paths: CertificateFiles) -> Self {
        Self {
            paths,
            files: None,
            identity: None,
            unusable: false,
        }
    }

    /// One that must be there.
    fn load(paths: CertificateFiles) -> Result<Self, TlsError> {
        let (files, contents) = Files::read(paths.both())?;
        Ok(Self {
            paths,
            files: Some(files),
            identity: Some(Arc::new(identity(&contents)?)),
            unusable: false,
        })
    }

    /// Whether there is another good version.
    fn look(&mut self, name: &str) -> bool {
        let contents = match &mut self.files {
            Some(files) => files.look(),
            // Told once, as `Files` does: a pair that is not whole yet has nothing to follow.
            None => match Files::read(self.paths.both()) {
                Ok((files, contents)) => {
                    self.files = Some(files);
                    Ok(Some(contents))
                }
                Err(_told) if self.unusable => Ok(None),
                Err(error) => Err(error),
            },
        };
        let parsed = match contents {
            Ok(None) => return false,
            Ok(Some(contents)) => usable(&contents, name),
            Err(error) => Err(error.into()),
        };
        match parsed {
            Ok(identity) => {
                self.identity = Some(Arc::new(identity));
                self.unusable = false;
                info!(certificate = name, "loaded");
                true
            }
            Err(error) => {
                self.unusable = true;
                warn!(certificate = name, %error, "the certificate cannot be used; the last good one stays in service");
                false
            }
        }
    }

    fn named(&self, name: &str) -> Option<Named> {
        Some(Named {
            name: name.to_owned(),
            identity: self.identity.clone()?,
        })
    }
}

impl Clients {
    fn load(mode: ClientCertificates, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let (mut files, mut trust) = (None, None);
        if let Some(wanted) = mode.files() {
            let mut paths = vec![wanted.ca.clone()];
            paths.extend(wanted.crls.iter().cloned());
            let (read, contents) = Files::read(paths)?;
            trust = mode.trust(&contents, provider)?;
            files = Some(read);
        }
        Ok(Self {
            mode,
            files,
            trust,
            outdated: BTreeSet::new(),
            unusable: false,
        })
    }

    fn look(&mut self, provider: &Arc<CryptoProvider>) -> bool {
        let Some(files) = &mut self.files else {
            return false;
        };
        let trust = match files.look() {
            Ok(None) => return false,
            Ok(Some(contents)) => self.mode.trust(&contents, provider),
            Err(error) => Err(error.into()),
        };
        self.unusable = trust.is_err();
        match trust {
            Ok(trust) => {
                self.trust = trust;
                info!("the CAs and revocation lists of client certificates were reloaded");
                true
            }
            Err(error) => {
                warn!(%error, "the CAs and revocation lists of client certificates stay as they were");
                false
            }
        }
    }

    fn report_outdated(&mut self, now: SystemTime) {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).ok();
        let now = now.and_then(|now| i64::try_from(now.as_secs()).ok());
        let lists = self.trust.iter().flat_map(|trust| &trust.next_updates);
        for (list, next_update) in lists {
            if now.is_none_or(|now| now <= *next_update) {
                self.outdated.remove(list);
            } else if self.outdated.insert(list.clone()) {
                warn!(
                    list,
                    next_update,
                    "a revocation list is past its next update: what it revokes stays revoked, what was revoked since is not known"
                );
            }
        }
    }
}

impl CertificateFiles {
    fn both(&self) -> Vec<PathBuf> {
        vec![self.certificate.clone(), self.private_key.clone()]
    }
}

fn identity(contents: &[Content]) -> Result<Identity, TlsError> {
    match contents {
        [certificate, private_key] => Identity::parse(certificate, private_key),
        _ => unreachable!("two files were named"),
    }
}

/// A pair that somebody can ask for.
fn usable(contents: &[Content], name: &str) -> Result<Identity, TlsError> {
    let identity = identity(contents)?;
    if identity.dns_names.is_empty() && name != DEFAULT {
        let path = contents
            .first()
            .map(|content| content.path().to_owned())
            .unwrap_or_default();
        let reason = "has no DNS name in its subjectAltName: nobody can ask for it".to_owned();
        return Err(TlsError::File { path, reason });
    }
    Ok(identity)
}

fn report_overlaps(certificates: &CertificateSet, known: &BTreeSet<(String, String)>) {
    for (first, second) in certificates.overlaps.difference(known) {
        warn!(
            certificate = second,
            "has a name that {first} has as well, with the same kind of key: {first} is served there"
        );
    }
}

/// The pairs of a directory by name, whether whole or not.
fn pairs_in(directory: &Path) -> std::io::Result<BTreeMap<String, CertificateFiles>> {
    let mut pairs = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let Some(file_name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        // Kubernetes keeps versions beside the links to them.
        if file_name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            let files = CertificateFiles {
                certificate: path.join("tls.crt"),
                private_key: path.join("tls.key"),
            };
            pairs.insert(file_name.to_owned(), files);
        } else if let Some(name) = file_name.strip_suffix(".crt") {
            let files = CertificateFiles {
                certificate: path.clone(),
                private_key: path.with_extension("key"),
            };
            pairs.insert(name.to_owned(), files);
        }
    }
    // It would hide the default in metrics.
    if let Some(namesake) = pairs.remove(DEFAULT) {
        pairs.insert(format!("{DEFAULT}/other"), namesake);
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests;
