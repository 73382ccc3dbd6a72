"""`handmesh-demo --web`: a page for browsers of this computer that shows the hands in space, served by viser.

The page's frame is the camera's: metres, x right, y down, z forward. Nothing on it comes from anywhere but this process.
"""

from __future__ import annotations

import re
import socket
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import redirect_stdout, suppress
from io import StringIO
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from handmesh.errors import UserError
from handmesh.hand_model.articulation import FIRST_JOINTS, FLEXION, POSES, Anatomy, angles_to_rotmats, limits_deg
from handmesh.hand_model.skinning import HandModel, skin
from handmesh.records import Camera, Hand
from handmesh.render.overlay import LEFT_RGB, RIGHT_RGB
from handmesh.skeleton import FINGERS

if TYPE_CHECKING:
    import viser

    from handmesh.render.web_access import Access

HOST = "127.0.0.1"
Times = Callable[[], Sequence[tuple[str, int, float, float, float]]]

_PICTURE_WIDTH_PX = 480
_PICTURES_A_SECOND = 12.0
_TEXTS_A_SECOND = 1.5
_FRUSTUM_M, _LINE_M = 0.12, 0.002
_FLOOR_M = 0.25
# Where the hand model stands and which way: behind the hands and above them, upright, its palm towards the camera.
_MODEL_PLACE_M = (-0.09, -0.04, 0.72)
_R_CAMERA_MODEL = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
_MODEL_RGB = (170, 175, 185)
_RESET = "Reset view"
_BUTTONS = ("Pause", "Record", "Snapshot", _RESET)
_WHILE_ON = ("Go on", "Stop", "Snapshot", _RESET)
_KEYS = (" ", "r", "s")
# Eye and what it looks at. Where the window is upright, as on a phone, the panel covers its lower part: the hands come above it.
_VIEW_M = (0.26, -0.14, 0.0), (0.06, 0.02, 0.43)
_UPRIGHT_VIEW_M = (0.2, -0.2, -0.3), (0.01, 0.34, 0.45)


class WebPage:
    """An open page, made by `open_page`: a screen of the demo's loop. Any number of browsers may look at it, or none.

    Attributes:
        address: for browsers of this computer, with the token of this run; whoever has it sees the camera and may press every button.
    """

    def __init__(
        self,
        server: viser.ViserServer,
        access: Access,
        hand_model: HandModel,
        times: Times,
        set_smooth: Callable[[float], None] | None,
        smooth: float,
    ) -> None:
        self.address = f"http://{HOST}:{server.get_port()}{access.path}"
        self._server = server
        self._access = access
        self._hand_model = hand_model
        self._times = times
        self._pressed: deque[str] = deque()
        self._clicking = threading.Lock()
        self._meshes: dict[tuple[int, bool], Any] = {}
        self._frustum: Any = None
        self._camera: Camera | None = None
        self._painter = ThreadPoolExecutor(1, thread_name_prefix="handmesh page")
        self._painting: Future[None] | None = None
        self._painted_s = self._written_s = -np.inf
        self._shown: object = None
        self._frames = 0
        self._is_closed = False
        self._set_scene()
        self._picture, self._text = self._set_panel(set_smooth, smooth)

    def show(self, picture_rgb: np.ndarray, hands: Sequence[Hand], camera: Camera | None) -> str | None:
        """Bring the page up to date, without waiting; what a slow browser has not fetched yet is replaced, not queued.

        Args:
            picture_rgb: (H, W, 3) uint8 for the panel.
            hands: in the frame of `camera`.
            camera: of the picture; None leaves the frustum as it is.

        Returns:
            " " for the pause button, "r" for the record button, "s" for the snapshot button, one a call; else None.
        """
        self._frames += picture_rgb is not self._shown
        self._shown = picture_rgb
        if self._server.get_clients():
            self._show_hands(hands)
            if camera is not None:
                self._show_camera(camera)
            self._show_picture(picture_rgb)
            self._show_text(len(hands))
        return self._pressed.popleft() if self._pressed else None

    def close(self) -> None:
        """Stop serving; a second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._painter.shutdown()
            self._access.hang_up()
            with _viser_silent():
                self._server.stop()

    def _set_scene(self) -> None:
        scene = self._server.scene
        scene.set_up_direction("-y")
        scene.add_grid("/floor", 2.0, 2.0, plane="xz", cell_size=0.1, section_size=0.5, position=(0.0, _FLOOR_M, 0.5))
        self._server.initial_camera.position, self._server.initial_camera.look_at = _VIEW_M
        self._server.on_client_connect(_reset_view)

    def _set_panel(self, set_smooth: Callable[[float], None] | None, smooth: float) -> tuple[Any, Any]:
        from handmesh.render.web_access import one_of, within

        gui = self._server.gui
        gui.set_panel_label("handmesh")
        # Floating panels become a sheet at the lower end of a phone.
        gui.configure_theme(control_layout="floating", dark_mode=True, show_logo=False, show_share_button=False)
        picture = gui.add_image(np.zeros((270, _PICTURE_WIDTH_PX, 3), np.uint8), format="jpeg", jpeg_quality=75)
        self._buttons = gui.add_button_group("", _BUTTONS)
        # The other label too: another browser may have pressed the same button just now.
        self._access.allow(self._buttons, one_of(*_BUTTONS, *_WHILE_ON))
        self._buttons.on_click(lambda event: self._click(event.target.value, event.client))
        if set_smooth is not None:
            slider = gui.add_slider("Smoothing", min=0.0, max=1.0, step=0.05, initial_value=float(smooth))
            self._access.allow(slider, within(0.0, 1.0))
            slider.on_update(lambda _: set_smooth(float(slider.value)))
        text = gui.add_markdown("")
        with gui.add_folder("Hand model", expand_by_default=False):
            _ModelStand(self._server, self._access, self._hand_model)
        return picture, text

    def _click(self, label: str, client: Any) -> None:
        if label == _RESET:
            if client is not None:
                _reset_view(client)
            return
        with self._clicking:
            # Before the first frame there is nothing to hold, and another browser may have pressed the same button just now.
            if self._camera is None or label not in self._buttons.options:
                return
            index = self._buttons.options.index(label)
            self._pressed.append(_KEYS[index])
            # "Pause" becomes "Go on", and so on.
            options = list(self._buttons.options)
            options[index] = (_BUTTONS if label == _WHILE_ON[index] else _WHILE_ON)[index]
            self._buttons.options = tuple(options)

    def _show_hands(self, hands: Sequence[Hand]) -> None:
        seen = {(hand.track_id, hand.is_right): hand for hand in hands}
        for key in [key for key in self._meshes if key not in seen]:
            self._meshes.pop(key).remove()
        for (track_id, is_right), hand in seen.items():
            vertices_m = hand.vertices_m.astype(np.float32)
            if (track_id, is_right) in self._meshes:
                self._meshes[track_id, is_right].vertices = vertices_m
                continue
            colour = _to_bytes(RIGHT_RGB if is_right else LEFT_RGB)
            name = f"/hands/{'right' if is_right else 'left'}_{track_id}"
            faces = np.ascontiguousarray(self._hand_model.faces_for(is_right))
            self._meshes[track_id, is_right] = self._server.scene.add_mesh_simple(name, vertices_m, faces, color=colour)

    def _show_camera(self, camera: Camera) -> None:
        if camera == self._camera:
            return
        self._camera = camera
        fov_rad = 2 * np.arctan(camera.height / 2 / camera.fy)
        aspect = camera.width / camera.fx * camera.fy / camera.height
        self._frustum = self._server.scene.add_camera_frustum(
            "/camera", float(fov_rad), float(aspect), scale=_FRUSTUM_M, thickness=_LINE_M, color=(230, 190, 80)
        )

    def _show_picture(self, picture_rgb: np.ndarray) -> None:
        """Every so often, and never while the last one is still being made smaller and coded."""
        now_s = time.perf_counter()
        if now_s - self._painted_s < 1 / _PICTURES_A_SECOND or (self._painting is not None and not self._painting.done()):
            return
        self._painted_s = now_s
        self._painting = self._painter.submit(self._paint, picture_rgb)

    def _paint(self, picture_rgb: np.ndarray) -> None:
        height, width = picture_rgb.shape[:2]
        scale = min(1.0, _PICTURE_WIDTH_PX / width)
        size = (round(width * scale), max(1, round(height * scale)))
        self._picture.image = cv2.resize(picture_rgb, size, interpolation=cv2.INTER_AREA)

    def _show_text(self, hands: int) -> None:
        now_s = time.perf_counter()
        since_s = now_s - self._written_s
        if since_s < 1 / _TEXTS_A_SECOND:
            return
        rate = self._frames / since_s if np.isfinite(since_s) else 0.0
        self._written_s, self._frames = now_s, 0
        rows = "".join(f"| {name} | {median_ms:.1f} | {p95_ms:.1f} |\n" for name, _, median_ms, p95_ms, _ in self._times())
        what = f"{hands} hand{'' if hands == 1 else 's'}, {rate:.0f} frames/s"
        self._text.content = f"{what}\n\n| stage | median ms | 95 % ms |\n|---|---:|---:|\n{rows}"


class _ModelStand:
    """The hand model by itself, with sliders for its pose and shape."""

    def __init__(self, server: viser.ViserServer, access: Access, model: HandModel) -> None:
        from handmesh.render.web_access import is_bool, one_of, within

        self._server = server
        self._model = model
        self._anatomy = Anatomy.of(model)
        self._mesh: Any = None
        self._drawing = threading.Lock()
        gui = server.gui
        self._is_shown = gui.add_checkbox("Show", False)
        self._pose = gui.add_dropdown("Pose", tuple(POSES), initial_value="relaxed")
        self._share = gui.add_slider("Share of pose", min=0.0, max=1.0, step=0.01, initial_value=1.0)
        self._curls = [gui.add_slider(f"Curl {finger}", min=0.0, max=90.0, step=1.0, initial_value=0.0) for finger in FINGERS]
        self._betas = [gui.add_slider(name, min=-3.0, max=3.0, step=0.1, initial_value=0.0) for name in model.beta_names]
        sliders = (self._share, *self._curls, *self._betas)
        rules = [(self._is_shown, is_bool), (self._pose, one_of(*POSES)), *((each, within(each.min, each.max)) for each in sliders)]
        for control, rule in rules:
            access.allow(control, rule)
            control.on_update(lambda _: self._draw())

    def _draw(self) -> None:
        # Every change comes in a thread of its own: the last to draw shall be one that has seen the last change.
        with self._drawing:
            self._draw_now()

    def _draw_now(self) -> None:
        if not self._is_shown.value:
            if self._mesh is not None:
                self._mesh.visible = False
            return
        vertices_m = self._vertices_m()
        if self._mesh is None:
            faces = np.ascontiguousarray(self._model.faces)
            self._mesh = self._server.scene.add_mesh_simple("/model", vertices_m, faces, color=_MODEL_RGB, position=_MODEL_PLACE_M)
        else:
            self._mesh.vertices, self._mesh.visible = vertices_m, True

    def _vertices_m(self) -> np.ndarray:
        """(V, 3) f32, upright."""
        angles_deg = self._share.value * POSES[self._pose.value].angles_deg()
        for finger, curl in zip(FINGERS, self._curls, strict=True):
            first = FIRST_JOINTS[finger] - 1
            angles_deg[first : first + 3, FLEXION] += curl.value
        rotmats = angles_to_rotmats(self._anatomy, np.clip(angles_deg, *limits_deg()))
        precision = self._model.template_m.dtype
        vertices_m = skin(self._model, rotmats.astype(precision), np.array([beta.value for beta in self._betas], precision))
        return (vertices_m @ _R_CAMERA_MODEL.T).astype(np.float32)


def open_page(
    port: int, hand_model: HandModel, times: Times, set_smooth: Callable[[float], None] | None = None, smooth: float = 0.0
) -> WebPage:
    """Serve the page to browsers of this computer.

    Args:
        port: of `HOST`.
        hand_model: the model of the hands that will be shown.
        times: rows of `timing.StageTimes.table`.
        set_smooth: takes what the smoothing slider says, in 0..1; None for no slider.
        smooth: where the slider starts.

    Raises:
        UserError: the port is none, or taken, or this viser cannot be kept from strangers.
    """
    if not 1 <= port <= 65535:
        raise UserError(f"expected --web with a port of 1 to 65535, got {port}")
    # viser would move on to the next free port without a word that scripts can read.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(
                f"expected a free port for --web, but {port} cannot be had ({error.strerror}); give another: --web PORT"
            ) from error
    import viser

    from handmesh.render.web_access import Access

    # viser warns when a browser leaves while its view is being set.
    warnings.filterwarnings("ignore", category=UserWarning, module=re.escape(__name__) + "$")
    access = Access()
    server = None
    try:
        with _viser_silent(), access.guard():
            server = viser.ViserServer(HOST, port, label="handmesh", verbose=False)
        # No message reaches it any more; nothing else shall open viser's public tunnel either.
        server.request_share_url = lambda verbose=True: None
        return WebPage(server, access, hand_model, times, set_smooth, smooth)
    except BaseException:
        if server is not None:
            with _viser_silent():
                server.stop()
        raise


def _viser_silent() -> redirect_stdout[StringIO]:
    """It greets and parts on stdout, which may be somebody's stream."""
    return redirect_stdout(StringIO())


def _reset_view(client: viser.ClientHandle) -> None:
    camera = client.camera
    position_m, look_at_m = _VIEW_M if camera.image_width >= camera.image_height else _UPRIGHT_VIEW_M
    for name, value in (("position", position_m), ("up_direction", (0.0, -1.0, 0.0)), ("look_at", look_at_m)):
        # On the way from any view to this one, the three may contradict each other, which viser refuses.
        with suppress(ValueError):
            setattr(camera, name, value)


def _to_bytes(rgb: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (round(255 * float(value)) for value in rgb)
    return red, green, blue
