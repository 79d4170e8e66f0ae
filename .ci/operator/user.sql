-- SPDX-License-Identifier: 0BSD
-- May insert, and read nothing. Put a password of your own here and into nginx-clickhouse.conf.
-- An insert is answered within 200 ms (ClickHouse Cloud's default of 1000 ms is all the time that a tool has), and
-- leaves no row in query_log.
CREATE USER telemetry IDENTIFIED WITH sha256_password BY 'w-r1te' HOST LOCAL
    SETTINGS async_insert = 1, wait_for_async_insert = 1, async_insert_busy_timeout_max_ms = 200, log_queries = 0;
GRANT INSERT ON telemetry.raw TO telemetry;
-- What strangers can write in an hour. Beyond it the answer is 500, and the tools keep their events.
CREATE QUOTA telemetry FOR INTERVAL 1 hour MAX written_bytes = 10000000000 TO telemetry;
