"""Slides and results in the browser (extra: `digipath[viewer]`): looked at, reviewed, and segmented from there.

- `app`, the frame of all pages; `desk`, what they share; `inline`, the same inside of a notebook
- `server` listens; `guard`, whom it answers; `routes`, tiles, thumbnails and files
- `shelf`, what may be seen; `opened`, what is open; `records`, what is read of files that may be a stranger's
- `tiles`, the pixels of the map; `reduced`, coarser copies; `colours`, maps and legends
- `areas`, how much is above a threshold
- `list_page`, everything there is, as `listing` says it
- `slide_page`, one slide: `scene`, what is known of it; `layers` and `overlays`, what lies over it; `measures`
- `*_panel`, what stands beside it: layers, lesions, doubts, sections, review (`review_map`, `review_told`), segment
- `flights`, buttons that fly to a place; `jobs`, segmentations begun here; `offers`, by what; `places`, where to
"""
