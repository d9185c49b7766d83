//! The certificates of a control plane: one CA, the server's certificate, and a client certificate for each user.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use data_encoding::BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

/// The first address of the Services' range: the API server's own Service.
const SERVICE_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));

/// Who signs, and where everything is written.
pub(super) struct Pki {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
}

/// A certificate and its key, as PEM.
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Pki {
    /// Makes a CA (`ca.crt`, `ca.key`) and the key that signs ServiceAccount tokens (`service-accounts.{key,pub}`).
    pub(super) fn create(directory: &Path) -> Self {
        fs::create_dir_all(directory).unwrap();
        let mut params = params("kubernetes", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let ca_pem = params.self_signed(&key).unwrap().pem();
        let this = Self {
            directory: directory.to_owned(),
            issuer: Issuer::new(params, key),
            ca_pem,
        };
        this.write("ca.crt", &this.ca_pem);
        this.write("ca.key", &this.issuer.key().serialize_pem());
        let service_accounts = KeyPair::generate().unwrap();
        this.write("service-accounts.key", &service_accounts.serialize_pem());
        this.write("service-accounts.pub", &service_accounts.public_key_pem());
        this
    }

    /// Where a file of this name is, or would be.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes `<name>.crt` and `<name>.key` of the API server.
    pub(super) fn server(&self, name: &str) {
        let mut params = params("kube-apiserver", None);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let names = ["localhost", "kubernetes.default.svc"];
        let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), SERVICE_ADDRESS];
        params.subject_alt_names = names
            .into_iter()
            .map(|name| SanType::DnsName(name.try_into().unwrap()))
            .chain(addresses.map(SanType::IpAddress))
            .collect();
        let pair = self.sign(&params);
        self.write(&format!("{name}.crt"), &pair.certificate);
        self.write(&format!("{name}.key"), &pair.key);
    }

    /// A client certificate. The API server takes the common name for the user and the organisation for a group.
    pub(super) fn client(&self, user: &str, group: Option<&str>) -> Pair {
        let mut params = params(user, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params)
    }

    /// A kubeconfig file that needs no other file.
    pub(super) fn kubeconfig(&self, name: &str, server: &str, user: &User<'_>) -> PathBuf {
        let credentials = match user {
            User::Certificate(pair) => format!(
                "{{client-certificate-data: {}, client-key-data: {}}}",
                BASE64.encode(pair.certificate.as_bytes()),
                BASE64.encode(pair.key.as_bytes())
            ),
            User::Token(token) => format!("{{token: {token}}}"),
        };
        let ca = BASE64.encode(self.ca_pem.as_bytes());
        let text = format!(
            "apiVersion: v1\n\
             kind: Config\n\
             clusters: [{{name: test, cluster: {{server: '{server}', certificate-authority-data: {ca}}}}}]\n\
             users: [{{name: test, user: {credentials}}}]\n\
             contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n\
             current-context: test\n"
        );
        let file = format!("{name}.kubeconfig");
        self.write(&file, &text);
        self.file(&file)
    }

    fn sign(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// Helm warns about a kubeconfig that others may read.
    fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let file = self.file(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// How a kubeconfig's user proves who it is.
pub(super) enum User<'a> {
    Certificate(&'a Pair),
    Token(&'a str),
}

fn params(common_name: &str, organization: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    if let Some(organization) = organization {
        let kind = DnType::OrganizationName;
        params.distinguished_name.push(kind, organization);
    }
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2100, 1, 1);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}
