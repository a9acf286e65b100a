-- What users asked for. Key columns are what statements select and order by;
-- body is the whole value as JSON.

CREATE TABLE providers (
    name TEXT NOT NULL PRIMARY KEY,
    body TEXT NOT NULL
);

CREATE TABLE functions (
    name     TEXT NOT NULL PRIMARY KEY,
    provider TEXT NOT NULL,
    body     TEXT NOT NULL
);

-- position orders the versions of a function: the number of a numbered
-- version, 2147483647 for $LATEST.PUBLISHED. $LATEST is part of its function.
CREATE TABLE versions (
    function  TEXT    NOT NULL,
    qualifier TEXT    NOT NULL,
    position  INTEGER NOT NULL,
    provider  TEXT    NOT NULL,
    body      TEXT    NOT NULL,
    PRIMARY KEY (function, qualifier)
);

CREATE INDEX versions_by_position ON versions (function, position);

CREATE TABLE instances (
    id       TEXT NOT NULL PRIMARY KEY,
    provider TEXT NOT NULL,
    body     TEXT NOT NULL
);

CREATE TABLE join_tokens (
    id   TEXT NOT NULL PRIMARY KEY,
    body TEXT NOT NULL
);

-- One row at most: the last leadership term.
CREATE TABLE leadership (
    id    INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    epoch BIGINT  NOT NULL
);
