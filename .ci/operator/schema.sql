-- SPDX-License-Identifier: 0BSD
-- ClickHouse 25.3 or later, for the type JSON. The parameters that are named here are read fastest; any other one
-- is kept too. Add those of your own event table with types that hold all they may hold: text for words and
-- choices, Bool for a flag, UInt32 for a count or milliseconds.
CREATE DATABASE IF NOT EXISTS telemetry;

-- What one request holds. Kept nowhere: what does not fit these types is refused as a whole, with 400.
CREATE TABLE telemetry.raw
(
    client_id UUID,
    events Array(Tuple(name String, timestamp_micros Int64,
        params JSON(max_dynamic_paths = 64, SKIP engagement_time_msec, cli_version LowCardinality(String),
                    python_version LowCardinality(String), os LowCardinality(String), ci Bool,
                    agent LowCardinality(String), session_id Int64, command LowCardinality(String), success Bool,
                    duration UInt32, error_type LowCardinality(String))))
)
ENGINE = Null;

-- One row an event. A repeated one has the same sorting key and is merged away; FINAL does so at once.
CREATE TABLE telemetry.events
(
    name LowCardinality(String),
    client_id UUID,
    time DateTime64(6, 'UTC'),
    params JSON(max_dynamic_paths = 64, SKIP engagement_time_msec, cli_version LowCardinality(String),
                python_version LowCardinality(String), os LowCardinality(String), ci Bool,
                agent LowCardinality(String), session_id Int64, command LowCardinality(String), success Bool,
                duration UInt32, error_type LowCardinality(String))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (name, client_id, time)
TTL toDateTime(time) + INTERVAL 14 MONTH;

-- Never fails: a failure would be that of all requests that are inserted together. An event waits 28 days at most
-- on a user's disk; what claims another time, or no client, is a stranger's or a broken clock's.
CREATE MATERIALIZED VIEW telemetry.unpack TO telemetry.events DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT event.name AS name, client_id, fromUnixTimestamp64Micro(event.timestamp_micros, 'UTC') AS time,
       event.params AS params
FROM telemetry.raw ARRAY JOIN events AS event
WHERE time BETWEEN now() - INTERVAL 30 DAY AND now() + INTERVAL 1 HOUR
  AND client_id != toUUID('00000000-0000-0000-0000-000000000000');
