// Light, dark, or as the system has it.
const theme = document.getElementById("theme");
const THEMES = { auto: "light", light: "dark", dark: "auto" };

function remembered(value) {
  try {
    if (value) localStorage.setItem("polymode-theme", value);
    return localStorage.getItem("polymode-theme");
  } catch {
    return null;
  }
}

function paint(value) {
  document.documentElement.dataset.theme = value;
  theme.textContent = `Theme: ${value}`;
}

paint(THEMES[remembered()] ? remembered() : "auto");
theme.addEventListener("click", () => {
  paint(THEMES[document.documentElement.dataset.theme]);
  remembered(document.documentElement.dataset.theme);
});
