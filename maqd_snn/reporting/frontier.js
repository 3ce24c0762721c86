// One plane at a time, and the figures of the network that is pointed at.
const planes = [...document.querySelectorAll(".plane")];
const choices = [...document.querySelectorAll(".planes button")];
const show = (name) => {
  for (const plane of planes) plane.hidden = plane.dataset.plane !== name;
  for (const button of choices) button.setAttribute("aria-pressed", String(button.dataset.plane === name));
};
if (choices.length > 1) {
  document.querySelector(".planes").hidden = false;
  for (const button of choices) button.addEventListener("click", () => show(button.dataset.plane));
  show(choices[0].dataset.plane);
}
const said = document.querySelector(".said");
for (const dot of document.querySelectorAll(".dot")) {
  const say = () => {
    said.textContent = dot.dataset.say;
    said.classList.remove("muted");
    for (const other of document.querySelectorAll(".dot.chosen")) other.classList.remove("chosen");
    dot.classList.add("chosen");
  };
  for (const event of ["pointerenter", "focus", "click"]) dot.addEventListener(event, say);
}
