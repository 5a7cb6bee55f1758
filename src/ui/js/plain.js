// What pages to read need: the theme that was chosen in the dashboard.
try {
  const theme = JSON.parse(localStorage.getItem("kahn.theme") ?? "null");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch {
  // No storage: the system's theme holds.
}
