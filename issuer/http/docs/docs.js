"use strict";
// Swagger UI has a dark style, which is chosen by a class.
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

// The `type` of a problem is a link to its row. Not every browser opens the element around a row by itself.
function showProblem() {
  const row = location.hash.startsWith("#problem-") && document.getElementById(location.hash.slice(1));
  if (row) { row.closest("details").open = true; row.scrollIntoView(); }
}
addEventListener("hashchange", showProblem);
showProblem();

SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#viewer",
  // It would take the link to a problem for one of its own.
  deepLinking: !location.hash.startsWith("#problem-"),
  displayRequestDuration: true,
  filter: true,
  tryItOutEnabled: true,
  requestSnippetsEnabled: true,
  defaultModelsExpandDepth: 0,
  // No other server is asked to check the document. The key is kept in no storage: it is lost with the page.
  validatorUrl: null,
  persistAuthorization: false,
});
