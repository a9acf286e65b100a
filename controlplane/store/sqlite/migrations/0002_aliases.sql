CREATE TABLE aliases (
    function TEXT NOT NULL,
    name     TEXT NOT NULL,
    body     TEXT NOT NULL,
    PRIMARY KEY (function, name)
);
