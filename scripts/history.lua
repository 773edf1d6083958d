--- moonrise history: what was seen, decided and done, and how the configuration changed by it.
local events = require("lib.events")
local home = require("lib.home")
local mr = require("moonrise")
local reader = require("lib.reader")
local term = require("lib.term")

local TIMEOUT_MS = 5000
local FILE_BYTES = 64 * 2 ^ 20

-- Both queries take the number of rows and a content, or null for all.
local CONFIGURATION = [[
select extract(epoch from h."time")::float8 * 1000 as at,
    to_char(h."time", 'YYYY-MM-DD HH24:MI:SS.MS') as "time", 'configuration' as source,
    'configuration' as kind, c.content, h.dbid, h.description as text
from moonrise.gp_configuration_history h
left join moonrise.gp_segment_configuration c using (dbid)
where $2::integer is null or c.content = $2
order by h."time" desc, h.ctid desc limit $1]]

local JOURNAL = [[
select coalesce((data ->> 'at')::float8, extract(epoch from "time")::float8 * 1000) as at,
    to_char(coalesce(to_timestamp((data ->> 'at')::float8 / 1000), "time"),
        'YYYY-MM-DD HH24:MI:SS.MS') as "time",
    'journal' as source, kind, content, dbid, text, data::text as data
from moonrise.journal
where $2::integer is null or content = $2
order by id desc limit $1]]

local function newest_last(rows)
    local list = {}
    for i = #rows, 1, -1 do
        table.insert(list, rows[i])
    end
    return list
end

local function read(cat, sql, given)
    local rows, err = cat:query(sql, { given.count, given.content or mr.null })
    if not rows then
        return nil, err
    end
    return newest_last(rows)
end

local function plain(value)
    return value ~= mr.null and value or nil
end

local function of_line(line)
    local row = mr.json_decode(line)
    if type(row) ~= "table" or type(row.text) ~= "string" then
        return nil
    end
    local data = plain(row.data)
    local at = type(data) == "table" and tonumber(data.at) or 0
    return { at = at, time = os.date("%Y-%m-%d %H:%M:%S", at / 1000) .. (".%03d"):format(at % 1000),
             source = "file", kind = plain(row.kind) or "journal", content = plain(row.content),
             dbid = plain(row.dbid), text = row.text, data = data and mr.json_encode(data) }
end

-- Rows that wait on this host until there is a coordinator again.
local function waiting(env)
    local list = {}
    local text = env.name and mr.read_file(home.state_dir(env.name) .. "/journal.jsonl", FILE_BYTES)
    for line in (text or ""):gmatch("[^\n]+") do
        table.insert(list, of_line(line))
    end
    return list
end

local function gather(source, given)
    local configuration, journal, err
    configuration, err = read(source.cat, CONFIGURATION, given)
    if not configuration then
        return nil, err
    end
    journal, err = read(source.cat, JOURNAL, given)
    if not journal then
        return nil, err
    end
    return events.merge({ configuration, journal, waiting(source.env) }, given.count, given.content)
end

local function print_json(list)
    for _, event in ipairs(list) do
        event.data = event.data and mr.json_decode(event.data) or nil
    end
    term.json({ events = mr.json_array(list) })
end

local function main(given)
    local source, err = reader.open(given, TIMEOUT_MS)
    if not source then
        return nil, err
    end
    local list
    list, err = gather(source, given)
    source.cat:close()
    if not list then
        return nil, err
    end
    if source.source ~= "coordinator" then
        term.warn("The coordinator cannot be asked: this is what its standby and this host know")
    end
    if given.json then
        print_json(list)
    elseif #list == 0 then
        term.info("Nothing is recorded%s", given.content and " about this content" or "")
    else
        for _, line in ipairs(events.lines(list)) do
            term.line(line)
        end
    end
    return source.source == "coordinator" and 0 or 1
end

return {
    summary = "what happened: changes of the configuration and the journal",
    usage = "[-n N] [--content C] [options]",
    description = [[
Prints gp_configuration_history and the journal in one order, the newest last. Without a
coordinator: what its standby has, and what waits on this host to be loaded.]],
    options = {
        { key = "count", short = "n", long = "lines", arg = "N", kind = "int", min = 1,
          max = 1000000, default = 50, help = "how many events (default 50)" },
        { key = "content", long = "content", arg = "C", kind = "int", min = -1, max = 32767,
          help = "those of one content only; -1 is the coordinator" },
    },
    main = main,
}
