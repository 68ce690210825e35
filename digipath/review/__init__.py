"""What a person says of a result: kept beside it, never over it, and compared with it.

`review.json` is a list of events that only grows (`decisions`, `ledger`); `Review` reads and adds to it (`review`);
`agreement` holds it against the model; `export` hands it to QuPath and ASAP; `blind` says what a viewer keeps back.
"""
