-- What layers count, and their versions.
CREATE TABLE layers (
    name TEXT NOT NULL PRIMARY KEY,
    body TEXT NOT NULL
);

CREATE TABLE layer_versions (
    layer  TEXT   NOT NULL,
    number BIGINT NOT NULL,
    body   TEXT   NOT NULL,
    PRIMARY KEY (layer, number)
);
