"use strict";
// Pictures dropped anywhere on the page, or pasted, are put into the field of the form.
function take(files) {
  const field = document.getElementById("picture");
  const images = [...files].filter((file) => file.type.startsWith("image/"));
  if (!field || !images.length) return false;
  const one = new DataTransfer();
  one.items.add(images[0]);
  field.files = one.files;
  field.dispatchEvent(new Event("change", { bubbles: true }));
  return true;
}

function over(event, on) {
  const place = document.querySelector(".drop");
  if (!place || (event.dataTransfer && ![...event.dataTransfer.types].includes("Files"))) return;
  event.preventDefault();
  place.classList.toggle("over", on);
}

document.addEventListener("dragover", (event) => over(event, true));
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) over(event, false); });
document.addEventListener("drop", (event) => { over(event, false); take(event.dataTransfer.files); });
document.addEventListener("paste", (event) => { if (take(event.clipboardData.files)) event.preventDefault(); });
