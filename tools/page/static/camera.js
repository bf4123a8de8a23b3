// The browser's camera, as JPEG frames.

import { Refused } from "./link.js";

const WIDTH = 640; // pixels of a frame
const QUALITY = 0.85;
const REASONS = {
  NotAllowedError: "The browser does not let this page use the camera. Allow it in the address bar, then try again.",
  NotFoundError: "No camera was found. Plug one in, then try again.",
  NotReadableError: "Another program uses the camera. Close it, then try again.",
};

export class Camera {
  // Throws Refused with a sentence if there is no camera.
  static async open() {
    if (!navigator.mediaDevices?.getUserMedia)
      throw new Refused("Browsers give a camera to pages of this machine or over https alone. Open the page by localhost.");
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: WIDTH } }, audio: false });
    } catch (error) {
      throw new Refused(REASONS[error.name] ?? `The camera cannot be used: ${error.message}.`);
    }
    const video = Object.assign(document.createElement("video"), { srcObject: stream, muted: true, playsInline: true });
    await video.play();
    return new Camera(stream, video);
  }

  constructor(stream, video) {
    this.stream = stream;
    this.video = video;
    this.start = performance.now();
    this.canvas = document.createElement("canvas");
    this.onEnd = () => {};
    const [track] = stream.getVideoTracks();
    track.addEventListener("ended", () => this.onEnd());
  }

  seconds() {
    return (performance.now() - this.start) / 1000;
  }

  // The newest frame, as a Blob.
  grab() {
    const { videoWidth, videoHeight } = this.video;
    const scale = Math.min(1, WIDTH / videoWidth);
    this.canvas.width = Math.round(videoWidth * scale);
    this.canvas.height = Math.round(videoHeight * scale);
    this.canvas.getContext("2d").drawImage(this.video, 0, 0, this.canvas.width, this.canvas.height);
    return new Promise((resolve) => this.canvas.toBlob(resolve, "image/jpeg", QUALITY));
  }

  close() {
    for (const track of this.stream.getTracks()) track.stop();
    this.video.srcObject = null;
  }
}
