import http.client
import json
import os
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

dash = pytest.importorskip("dash")

from digipath.errors import SpecError  # noqa: E402
from digipath.segmentation import Segmentation  # noqa: E402
from digipath.viewer import server  # noqa: E402
from digipath.viewer.desk import Desk  # noqa: E402
from digipath.viewer.guard import guard, is_loopback  # noqa: E402
from digipath.viewer.opened import Opened  # noqa: E402
from digipath.viewer.routes import FILES, add_routes  # noqa: E402
from digipath.viewer.shelf import Shelf  # noqa: E402
from digipath.viewer.tiles import Tiling, tile_url  # noqa: E402


def answering(*sources, host="127.0.0.1", token=None, framed=False, limit=8, **options):
    """(a client, the desk) of a viewer without pages."""
    desk = Desk(shelf=Shelf(sources), opened=Opened(limit), **options)
    app = dash.Dash("nothing", url_base_pathname=desk.prefix)
    app.layout = dash.html.Div()
    add_routes(app, desk)
    guard(app, host=host, token=token, framed=framed)
    return app.server.test_client(), desk


def one(desk, name, kind="result"):
    [item] = [item for item in desk.shelf.items() if (item.name, item.kind) == (name, kind)]
    return item


def at(item, layer="slide", *, z=11, x=0, y=0, **options):
    return tile_url(item, layer, prefix="/", version=item.version, **options).format(z=z, x=x, y=y)


@pytest.fixture(scope="module")
def shown(library):
    return answering(library)


class TestTiles:
    def test_every_layer_is_served_at_every_zoom(self, shown):
        client, desk = shown
        item = one(desk, "slide")
        with desk.opened.view(item) as view:
            layers = view.layers
        assert len(layers) == 9
        for layer in ("slide", *layers):
            for z in (0, 5, 11):
                answer = client.get(at(item, layer, z=z))
                assert answer.status_code == 200
                whole = layer == "slide" and z == 11  # at coarser zooms the tile overhangs the slide
                kind = "image/png" if layer != "slide" else "image/jpeg" if whole else "image/svg+xml"
                assert answer.mimetype == kind
                if kind == "image/svg+xml":
                    assert b'width="256" height="256"' in answer.data and b"script" not in answer.data
                    continue
                pixels = cv2.imdecode(np.frombuffer(answer.data, np.uint8), cv2.IMREAD_UNCHANGED)
                assert pixels.shape == (256, 256, 3 if whole else 4)

    def test_the_mask_follows_the_threshold_in_the_url(self, shown, library):
        client, desk = shown
        item = one(desk, "slide")
        with Segmentation.load(library / "results" / "slide") as result:
            for threshold in (0.2, 0.5, 0.8):
                answer = client.get(at(item, "mask-1", threshold=threshold))
                marked = cv2.imdecode(np.frombuffer(answer.data, np.uint8), cv2.IMREAD_UNCHANGED)[..., 3] == 255
                expected = result.mask(threshold).array().repeat(8, 0).repeat(8, 1)[:256, :256]
                np.testing.assert_array_equal(marked, expected)

    def test_what_cannot_change_is_kept_by_the_browser_and_nothing_else(self, shown):
        client, desk = shown
        item = one(desk, "slide")
        assert "immutable" in client.get(at(item)).headers["Cache-Control"]
        assert client.get(at(item).replace(item.version, "0" * 12)).headers["Cache-Control"] == "no-store"
        assert client.get(f"/tiles/{item.id}/slide/11/0/0").headers["Cache-Control"] == "no-store"
        assert client.get(at(item, z=12)).headers["Cache-Control"] == "no-store"
        assert client.get("/").headers["Cache-Control"] == "no-store"

    @pytest.mark.parametrize("place", ["12/0/0", "11/6/0", "11/0/4", "0/1/0", f"{10**40}/0/0", f"11/{10**40}/0"])
    def test_there_are_no_tiles_beside_the_slide(self, shown, place):
        client, desk = shown
        for layer in ("slide", "mask-1"):
            assert client.get(f"/tiles/{one(desk, 'slide').id}/{layer}/{place}").status_code == 404

    @pytest.mark.parametrize("threshold", ["nan", "inf", "-1", "2", "x", "", "0x1p-1", "1e999", "0.5;"])
    def test_a_threshold_is_a_probability(self, shown, threshold):
        client, desk = shown
        answer = client.get(f"/tiles/{one(desk, 'slide').id}/mask-1/11/0/0", query_string={"t": threshold})
        assert answer.status_code == 404 and b"threshold" in answer.data

    @pytest.mark.parametrize("layer", ["mask-7", "probability-", "mask--1", "nothing", "mask-1%00", "mask-١"])
    def test_a_layer_is_one_of_the_result(self, shown, layer):
        client, desk = shown
        assert client.get(f"/tiles/{one(desk, 'slide').id}/{layer}/11/0/0").status_code == 404

    def test_a_broken_slide_is_told_in_a_line(self, shown):
        client, desk = shown
        item = one(desk, "broken.svs", "slide")
        for url in (at(item), f"/thumbnails/{item.id}", at(item, "mask-1")):
            answer = client.get(url)
            assert answer.status_code == 422 and answer.mimetype == "text/plain"
            assert b"broken.svs" in answer.data and b"Traceback" not in answer.data

    def test_the_layers_of_a_slide_that_was_not_segmented_are_told_in_a_line(self, shown):
        client, desk = shown
        answer = client.get(at(one(desk, "slide.tif", "slide"), "mask-1"))
        assert answer.status_code == 422 and b"not segmented" in answer.data

    def test_eight_clients_get_the_same_as_one(self, library):
        client, desk = answering(library)
        urls = [at(item, z=z) for item in desk.shelf.items() if item.has_slide for z in range(12)]
        urls += [at(one(desk, "slide"), layer, z=z) for layer in ("mask-1", "total") for z in range(12)]
        alone = [client.get(url).data for url in urls]
        fresh, _ = answering(library, limit=1)  # so that slides are opened and closed all the time
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda url: fresh.application.test_client().get(url).data, urls * 2))
        assert together == alone * 2


class TestThumbnails:
    def test_slides_and_results_have_one(self, shown):
        client, desk = shown
        for item in desk.shelf.items():
            if item.status != "broken":
                pixels = cv2.imdecode(np.frombuffer(client.get(f"/thumbnails/{item.id}").data, np.uint8), 1)
                assert max(pixels.shape) == 320

    def test_without_its_slide_a_result_has_its_own(self, library):
        client, desk = answering(library / "results")
        item = one(desk, "slide")
        assert item.slide_path is None and client.get(f"/thumbnails/{item.id}").mimetype == "image/jpeg"
        assert client.get(at(item)).status_code == 422


class TestFiles:
    def test_the_files_of_a_result_may_be_fetched(self, shown):
        client, desk = shown
        item = one(desk, "slide")
        for name in ("annotations.geojson", "annotations.xml", "overview.png", "uncertainty.png", "result.json"):
            answer = client.get(f"/files/{item.id}/{name}")
            assert answer.data == (item.path / name).read_bytes()
            assert answer.mimetype == FILES[name]
            assert ("attachment" in answer.headers["Content-Disposition"]) == (answer.mimetype != "image/png")
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")

    @pytest.mark.parametrize(
        "name",
        [
            *("result.h5", "heatmap.tif", ".lock.1", "review.json", "", "..", "x", "RESULT.JSON", "result.json%00.png"),
            *("../slide/result.json", "..%2fslide%2fresult.json", "%2e%2e/%2e%2e/slide.tif", "....//slide.tif"),
            *("%2Fetc%2Fpasswd", "/etc/passwd", "..%5c..%5cslide.tif", "C:%5cx", "overview.png/..", "./result.json"),
        ],
    )
    def test_nothing_else_can_be_fetched(self, shown, name):
        client, desk = shown
        answer = client.get(f"/files/{one(desk, 'slide').id}/{name}")
        # What is no route at all is answered by the page, which knows nothing of files.
        assert answer.status_code in (308, 404) or (answer.mimetype == "text/html" and b"_dash-" in answer.data)
        assert b"fingerprint" not in answer.data and b"root:" not in answer.data

    @pytest.mark.parametrize(
        "name",
        ["/etc", "..", "%2e%2e", "..%2f..", "%2fetc%2f", "0" * 12, "x" * 5000, "a\x00b", "ünicode", "~root", "{id}"],
    )
    @pytest.mark.parametrize(
        "rule", ["files/{}/passwd", "files/{}/result.json", "thumbnails/{}", "tiles/{}/slide/0/0/0"]
    )
    def test_an_id_is_never_a_path(self, shown, name, rule):
        answer = shown[0].get("/" + rule.format(name))
        assert answer.status_code in (308, 404) or (answer.mimetype == "text/html" and b"_dash-" in answer.data)
        assert b"root:" not in answer.data and b"Traceback" not in answer.data

    def test_a_file_that_is_a_link_outwards_cannot_be_fetched(self, shelf_copy, tmp_path):
        (tmp_path / "secret").write_text("secret")
        link = shelf_copy / "results" / "slide" / "report.html"
        link.symlink_to(tmp_path / "secret")
        client, desk = answering(shelf_copy)
        assert client.get(f"/files/{one(desk, 'slide').id}/report.html").status_code == 404
        assert client.get(f"/files/{one(desk, 'slide.tif', 'slide').id}/result.json").status_code == 404

    def test_names_that_a_header_cannot_hold_are_made_to_fit(self, shelf_copy):
        (shelf_copy / "results" / "slide").rename(shelf_copy / "results" / 'a\nb"c☃')
        client, desk = answering(shelf_copy)
        answer = client.get(f"/files/{one(desk, chr(97) + chr(10) + 'b' + chr(34) + 'c☃').id}/result.json")
        assert answer.status_code == 200 and "\n" not in answer.headers["Content-Disposition"]
        assert int(answer.headers["Content-Length"]) == len(answer.data)

    def test_a_file_that_becomes_a_link_outwards_after_it_was_looked_at_is_not_sent(self, shelf_copy, tmp_path):
        (tmp_path / "secret").write_text("secret")
        client, desk = answering(shelf_copy)
        url = f"/files/{one(desk, 'slide').id}/report.html"
        report = shelf_copy / "results" / "slide" / "report.html"
        report.symlink_to(tmp_path / "secret")
        desk.shelf.allows = lambda path, before=desk.shelf.allows: Path(path) == report or before(path)
        answer = client.get(url)
        assert b"secret" not in answer.data or not Path("/proc/self/fd").exists()

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
    def test_a_pipe_is_no_file_to_be_fetched(self, shelf_copy):
        os.mkfifo(shelf_copy / "results" / "slide" / "report.html")
        client, desk = answering(shelf_copy)
        assert client.get(f"/files/{one(desk, 'slide').id}/report.html").status_code == 404

    def test_a_report_from_elsewhere_can_run_nothing(self, shelf_copy):
        (shelf_copy / "results" / "slide" / "report.html").write_text("<script>alert(1)</script>")
        client, desk = answering(shelf_copy)
        answer = client.get(f"/files/{one(desk, 'slide').id}/report.html")
        policy = answer.headers["Content-Security-Policy"]
        assert answer.mimetype == "text/html" and "sandbox" in policy and "script" not in policy

    def test_a_record_that_names_a_file_outside_does_not_show_it(self, shelf_copy, tmp_path, library):
        outside = tmp_path / "secret.tif"
        outside.write_bytes((library / "slide.tif").read_bytes())
        (shelf_copy / "slide.tif").unlink()
        path = shelf_copy / "results" / "slide" / "result.json"
        info = json.loads(path.read_text())
        info["slide"]["path"] = str(outside)
        path.write_text(json.dumps(info))
        client, desk = answering(shelf_copy)
        assert client.get(at(one(desk, "slide"))).status_code == 422


class TestBlindStudies:
    def test_what_the_model_said_is_withheld(self, library):
        client, desk = answering(library, blind=True, reviewer="someone")
        item = one(desk, "slide")
        for layer in ("probability-1", "mask-1", "total", "uncovered", "nothing"):
            assert client.get(at(item, layer)).status_code == 403
        for name in FILES:
            assert client.get(f"/files/{item.id}/{name}").status_code == 403
        for layer, kept in (("slide", "private, max-age=31536000, immutable"), ("tissue", "no-store")):
            answer = client.get(at(item, layer))
            assert answer.status_code == 200 and answer.headers["Cache-Control"] == kept
        assert client.get(f"/thumbnails/{item.id}").status_code == 200


class TestTheGuard:
    @pytest.mark.parametrize(
        "host", ["localhost", "127.0.0.1", "localhost:8050", "[::1]:8050", "10.0.0.7", "LOCALHOST"]
    )
    def test_addresses_and_own_names_are_answered(self, shown, host):
        assert shown[0].get("/", headers={"Host": host}).status_code == 200

    @pytest.mark.parametrize(
        "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8050", "", "[::1"]
    )
    def test_other_names_are_refused_as_after_dns_rebinding(self, shown, host):
        client, desk = shown
        for url in ("/", "/_dash-layout", at(one(desk, "slide"))):
            assert client.get(url, headers={"Host": host}).status_code in (400, 421)

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://localhost:1"},
            {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ],
    )
    def test_changes_from_other_pages_are_refused(self, shown, headers):
        answer = shown[0].post("/_dash-update-component", json={}, headers=headers)
        assert answer.status_code == 403

    def test_changes_from_own_pages_are_taken(self, shown):
        for headers in ({"Origin": "http://localhost"}, {"Sec-Fetch-Site": "same-origin"}, {}):
            assert shown[0].post("/_dash-update-component", json={}, headers=headers).status_code != 403

    def test_pages_load_nothing_from_elsewhere_and_nothing_is_guessed(self, shown):
        headers = shown[0].get("/").headers
        policy = headers["Content-Security-Policy"]
        assert "unsafe-eval" not in policy and "http" not in policy and "*" not in policy
        assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Frame-Options"] == "DENY" and "frame-ancestors 'none'" in policy

    def test_a_notebook_of_this_machine_may_show_it_in_a_frame(self, library):
        headers = answering(library, framed=True)[0].get("/").headers
        assert "frame-ancestors 'self' http://localhost:*" in headers["Content-Security-Policy"]
        assert "X-Frame-Options" not in headers

    def test_with_a_token_nothing_is_answered_without_it(self, library):
        client, desk = answering(library, token="right")
        item = one(desk, "slide")
        urls = [
            "/",
            "/_dash-layout",
            at(item).partition("?")[0],
            f"/thumbnails/{item.id}",
            f"/files/{item.id}/result.json",
            "/assets/x",
        ]
        for url in urls:
            assert client.get(url).status_code == 401
            for wrong in ("wrong", "", "rightx", "righ", "ünicode"):
                assert client.get(url, query_string={"token": wrong}).status_code == 401
        assert client.post("/_dash-update-component", json={}).status_code == 401

    def test_the_token_is_brought_once_and_then_a_cookie(self, library):
        client, _ = answering(library, token="right")
        first = client.get("/view/x?token=right")
        assert b"right" not in first.data and b'url=/view/x"' in first.data
        cookie = first.headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
        assert client.get("/").status_code == 200
        assert answering(library, token="right")[0].get("/").status_code == 401

    def test_beyond_this_machine_there_is_no_viewer_without_a_token(self, library):
        desk = Desk(shelf=Shelf([library]), opened=Opened())
        for host in ("0.0.0.0", "192.168.0.1", "::", "example.org"):
            with pytest.raises(SpecError, match="with a token only"):
                server.serve(desk, host=host, port=0)
        assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")


class TestTheServer:
    def test_it_serves_many_at_once_and_ends(self, library):
        desk = Desk(shelf=Shelf([library]), opened=Opened(limit=2))
        running = server.start(desk, prefix="/somewhere/")
        item = one(desk, "slide")
        tiling = Tiling(1400, 1000)
        places = [(z, 0, 0) for z in range(tiling.levels + 1)] * 4

        def get(place):
            url = tile_url(item, "slide", prefix="/somewhere/", version=item.version)
            where = running.url.removesuffix("/somewhere/") + url.format(z=place[0], x=place[1], y=place[2])
            with urllib.request.urlopen(where, timeout=30) as answer:
                return answer.status

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(get, places)) == {200}
        running.stop()
        connection = http.client.HTTPConnection(running.url.split("/")[2], timeout=2)
        with pytest.raises(OSError):
            connection.request("GET", "/somewhere/")
        assert not [
            thread for thread in threading.enumerate() if thread.name == "digipath viewer" and thread.is_alive()
        ]

    def test_what_is_posted_is_bounded_and_so_are_connections(self, library):
        desk = Desk(shelf=Shelf([library]), opened=Opened())
        running = server.start(desk)
        try:
            request = urllib.request.Request(f"{running.url}_dash-update-component", b" " * (2**24 + 1))
            with pytest.raises((urllib.error.HTTPError, OSError)) as refusal:
                urllib.request.urlopen(request)
            assert getattr(refusal.value, "code", 413) == 413
        finally:
            running.stop()

    def test_a_port_that_is_taken_or_none_is_told(self, library):
        desk = Desk(shelf=Shelf([library]), opened=Opened())
        for port in (-1, 99_999):
            with pytest.raises(SpecError, match="from 0, which takes a free one"):
                server.serve(desk, host="127.0.0.1", port=port)
        with pytest.raises(SpecError, match=r"nowhere\.invalid, port 0, cannot be listened at"):
            server.serve(desk, host="nowhere.invalid", port=0, token="x")
        running = server.serve(desk, host="127.0.0.1", port=0)
        try:
            port = int(running.url.rsplit(":", 1)[1].strip("/"))
            with pytest.raises(SpecError, match=f"port {port}, cannot be listened at"):
                server.serve(desk, host="127.0.0.1", port=port)
        finally:
            running.stop()
