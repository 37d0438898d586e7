// The example for the address that this page came from.
for (const code of document.querySelectorAll("pre code")) {
  code.textContent = code.textContent.replace("http://127.0.0.1:8000", location.origin);
}
