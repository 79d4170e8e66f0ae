-- SPDX-License-Identifier: 0BSD
-- Commands, CI apart, each event once. Where the export keeps a boolean is not documented, so both places are
-- looked at. The time alone does not tell events apart, because Google moves what is older than 72 hours to one moment.
SELECT event_name, command, ci, COUNT(*) AS events, COUNT(DISTINCT user_pseudo_id) AS installations
FROM (SELECT DISTINCT user_pseudo_id, event_timestamp, event_name,
             (SELECT value.string_value FROM UNNEST(event_params) WHERE key = 'command') AS command,
             (SELECT value.int_value FROM UNNEST(event_params) WHERE key = 'duration') AS duration,
             EXISTS (SELECT 1 FROM UNNEST(event_params)
                     WHERE key = 'ci' AND (value.string_value IN ('true', '1') OR value.int_value = 1)) AS ci
      FROM `project.analytics_123456789.events_*`
      WHERE _TABLE_SUFFIX BETWEEN '20250101' AND '20250131')
GROUP BY event_name, command, ci
ORDER BY events DESC;
