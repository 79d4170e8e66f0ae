-- SPDX-License-Identifier: 0BSD
-- Each event once; what is not of the module's form, or claims a time that no tool has, is left out
CREATE OR REPLACE TABLE events AS
SELECT client_id, event->>'name' AS name, make_timestamp(micros) AS time, event->'params' AS params
FROM (SELECT received, client_id, event, TRY_CAST(event->>'timestamp_micros' AS BIGINT) AS micros
      FROM (SELECT received, TRY_CAST(body->>'client_id' AS UUID) AS client_id,
                   unnest(TRY_CAST(body->'events' AS JSON[])) AS event
            FROM (SELECT received, TRY_CAST(body AS JSON) AS body
                  FROM read_json('/var/log/nginx/telemetry.jsonl*', format = 'newline_delimited',
                                 columns = {received: 'DOUBLE', body: 'VARCHAR'}, ignore_errors = true,
                                 maximum_object_size = 4000000))))
WHERE client_id IS NOT NULL
  AND micros BETWEEN (received - 30 * 86400) * 1000000 AND (received + 3600) * 1000000
QUALIFY row_number() OVER (PARTITION BY client_id, micros) = 1;

-- Active installations a week, people and CI apart
SELECT date_trunc('week', time) AS week, count(DISTINCT client_id) FILTER (params->>'ci' = 'false') AS people,
       count(DISTINCT client_id) FILTER (params->>'ci' = 'true') AS ci
FROM events GROUP BY week ORDER BY week;

-- Success and duration of each command
SELECT params->>'command' AS command, count(*) AS runs,
       round(100 * avg((params->>'success' = 'true')::INT), 1) AS percent_ok,
       quantile_cont(TRY_CAST(params->>'duration' AS INT), [0.5, 0.95]) AS p50_p95_ms
FROM events WHERE name = 'command_executed' AND params->>'ci' = 'false' GROUP BY command ORDER BY runs DESC;
