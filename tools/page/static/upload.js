// Send a video and show the progress, which XMLHttpRequest reports and fetch does not.

import { endProgress, tellProgress } from "./dom.js";
import { Cancelled, Refused } from "./link.js";

const BROKEN = "The upload broke off. Is the server still there, and the video not too large?";

export function send(file, viewer) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const query = new URLSearchParams({ viewer, name: file.name, later: "1" });
    const cancel = () => request.abort();
    request.open("POST", `/upload?${query}`);
    request.responseType = "json";
    request.upload.onprogress = ({ loaded, total }) =>
      tellProgress("upload", `Sending ${file.name}`, total ? loaded / total : null, cancel);
    request.onload = () => {
      if (request.status === 200) resolve(request.response);
      else reject(new Refused(asSentence(request.response?.error ?? BROKEN)));
    };
    request.onerror = () => reject(new Refused(BROKEN));
    request.onabort = () => reject(new Cancelled());
    request.onloadend = () => endProgress("upload");
    tellProgress("upload", `Sending ${file.name}`, 0, cancel);
    request.send(file);
  });
}

function asSentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}${text.endsWith(".") ? "" : "."}`;
}
