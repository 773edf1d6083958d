--- The file that says where mirrors are added: one a line, `content|address|port|directory` as in
--- Greenplum, or `content|host|address|port|directory` where the host is not to be guessed from the
--- address. `#` begins a comment. Pure; a mistake is told with its line.
local mr = require("moonrise")
local recovery_file = require("lib.recovery_file")

local M = {}

---@class MirrorRow
---@field line integer
---@field content integer
---@field hostname? string nil when the row has an address only
---@field address string
---@field port integer
---@field datadir string

local function row_of(text)
    local fields = recovery_file.fields(text)
    if #fields ~= 4 and #fields ~= 5 then
        return nil, ("content|address|port|directory wanted, not %d field%s"):format(#fields,
            #fields == 1 and "" or "s")
    end
    local named = table.remove(fields, 1)
    local content = named:match("^%d%d?%d?%d?%d?$") and tonumber(named)
    if not content then
        return nil, ("'%s' is no content of a segment"):format(named)
    end
    local row, problem = recovery_file.place(fields)
    if row then
        row.content = content
    end
    return row, problem
end

--- What is wrong with a line, as an error for exit code 2.
---@param name string the file's
---@param line integer
---@param problem string
---@return Error
function M.mistake(name, line, problem)
    return mr.error("usage", ("line %d of %s: %s"):format(line, name, problem),
        { hint = "nothing was touched" })
end

--- Reads a file's text.
---@param text string
---@param name string
---@return MirrorRow[]? rows
---@return Error? err code "usage"
function M.parse(text, name)
    local rows, seen, line = {}, {}, 0
    for whole in (text:gsub("\n$", "") .. "\n"):gmatch("(.-)\r?\n") do
        line = line + 1
        local said = whole:match("^%s*(.-)%s*$")
        if said ~= "" and said:sub(1, 1) ~= "#" then
            local row, problem
            if said:find("%c") then
                problem = "it has control characters"
            else
                row, problem = row_of(said)
            end
            if row and seen[row.content] then
                problem = ("content %d is in line %d already"):format(row.content,
                    seen[row.content])
            end
            if problem then
                return nil, M.mistake(name, line, problem)
            end
            row.line, seen[row.content] = line, line
            table.insert(rows, row)
        end
    end
    return rows
end

-- A host's name or address as one field: the bars do not care, people's eyes do.
local function shown(name)
    return name:find(":", 1, true) and ("[%s]"):format(name) or name
end

--- The lines of a file that parse reads as these places again.
---@param places {content: integer, hostname: string, address: string, port: integer,
--- datadir: string}[]
---@param instances table[]
---@return string text
function M.format(places, instances)
    local lines = { "# content|address|port|directory" }
    for _, place in ipairs(places) do
        local alone = recovery_file.host(instances, { address = place.address }) == place.hostname
        table.insert(lines, ("%d|%s%s|%d|%s"):format(place.content,
            alone and "" or shown(place.hostname) .. "|", shown(place.address), place.port,
            place.datadir))
    end
    return table.concat(lines, "\n") .. "\n"
end

return M
