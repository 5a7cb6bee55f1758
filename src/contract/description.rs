//! What a backend says of itself: for people who ask what a binary is before they trust it with anything.

/// The part of `kahn mode` that only the backend knows. The same members in both builds; nothing is opened to know them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Whom it serves.
    pub serves: &'static str,
    /// Who can reach the address that it would listen on.
    pub reach: String,
    /// Where runs are kept, as it is configured.
    pub storage: String,
    /// How a request shows who asks, as it is configured.
    pub auth: String,
    /// What keeps people's runs apart.
    pub tenancy: &'static str,
    /// What a client may ask for before it is told to wait.
    pub rate_limit: &'static str,
    /// What must hold before the port opens, a clause each.
    pub boot_checks: Vec<String>,
}
