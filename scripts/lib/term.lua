--- What people read: lines in Greenplum's form, tables, questions, progress.
---
--- Standard output carries results, standard error progress and questions. A log file, once opened,
--- gets every line with its time. One object per process: what runs here talks to one terminal.
local mr = require("moonrise")

local M = {}

local settings = { prefix = nil, quiet = false, verbose = false, json = false, log_path = nil }

---@class TermOptions
---@field program string the name moonrise was started under and its subcommand ("state", "gpstate")
---@field gp boolean started under a gp name: lines get Greenplum's time stamp and program
---@field quiet? boolean
---@field verbose? boolean
---@field json? boolean results are JSON; lines go to standard error
---@field log_path? string

--- Sets how lines look and where they go; called once by the runbook's frame.
---@param options TermOptions
function M.setup(options)
    settings.quiet = options.quiet
    settings.verbose = options.verbose
    settings.json = options.json
    settings.log_path = options.log_path
    settings.prefix = nil
    if options.gp then
        local me = mr.whoami()
        settings.prefix = (":%06d %s:%s:%s-"):format(me.pid, options.program, me.hostname, me.user)
    end
end

local function stamp()
    return os.date("%Y%m%d:%H:%M:%S")
end

local function log(line)
    if settings.log_path then
        mr.append_file(settings.log_path, ("%s %s"):format(os.date("%Y-%m-%d %H:%M:%S"), line))
    end
end

local function emit(level, text, to_stderr)
    local line = ("[%s]:-%s"):format(level, text)
    log(line)
    if settings.prefix then
        line = stamp() .. settings.prefix .. line
    end
    if to_stderr or settings.json then
        mr.err(line .. "\n")
    else
        mr.out(line .. "\n")
    end
end

local function format(fmt, ...)
    if select("#", ...) == 0 then
        return tostring(fmt)
    end
    return fmt:format(...)
end

--- A line of the result or of the story. Not shown with -q.
---@param fmt string
function M.info(fmt, ...)
    if settings.quiet then
        log("[INFO]:-" .. format(fmt, ...))
        return
    end
    emit("INFO", format(fmt, ...))
end

--- A warning; shown also with -q.
---@param fmt string
function M.warn(fmt, ...)
    emit("WARNING", format(fmt, ...))
end

--- Details for -v.
---@param fmt string
function M.debug(fmt, ...)
    if settings.verbose then
        emit("DEBUG", format(fmt, ...))
    end
end

-- What an error does not say itself of what led to it, the nearest first.
local function causes(err)
    local told, list = tostring(err.message), {}
    local cause = err.cause
    while type(cause) == "table" do
        local text = tostring(cause.message)
        if not told:find(text, 1, true) then
            told = told .. "\n" .. text
            table.insert(list, text)
        end
        cause = cause.cause
    end
    return list
end

--- An error, to standard error, its causes and its hint on lines of their own.
---@param err Error|string
function M.error(err)
    if type(err) ~= "table" then
        emit("ERROR", tostring(err), true)
        return
    end
    local text = err.message or tostring(err)
    if err.instance then
        text = ("%s: %s"):format(err.instance, text)
    end
    emit("ERROR", text, true)
    for _, cause in ipairs(causes(err)) do
        emit("ERROR", "  cause: " .. cause, true)
    end
    if err.hint and err.hint ~= "" then
        emit("ERROR", "  " .. err.hint, true)
    end
end

--- Plain text on standard output.
---@param text string
function M.line(text)
    mr.out(text .. "\n")
end

--- Prints a machine-readable result (with --json nothing else goes to standard output).
---@param value any a list that may be empty is mr.json_array's
function M.json(value)
    mr.out(mr.json_encode(value) .. "\n")
end

--- Lines of a table, columns padded to their widest value with three blanks between them.
---@param headers string[]
---@param rows string[][]
---@return string[]
function M.table(headers, rows)
    local widths = {}
    local all = { headers, unpack(rows) }
    for _, row in ipairs(all) do
        for i = 1, #headers do
            widths[i] = math.max(widths[i] or 0, #tostring(row[i] == nil and "" or row[i]))
        end
    end
    local lines = {}
    for _, row in ipairs(all) do
        local cells = {}
        for i = 1, #headers do
            local text = tostring(row[i] == nil and "" or row[i])
            cells[i] = text .. (" "):rep(widths[i] - #text)
        end
        table.insert(lines, (table.concat(cells, "   "):gsub("%s+$", "")))
    end
    return lines
end

--- Asks before something changes. With `yes` (-a) it is taken as given; without a terminal it is
--- refused.
---@param question string without the [y/N]
---@param yes boolean?
---@return boolean? go_on
---@return integer? exit_code when it does not go on
function M.confirm(question, yes)
    if yes then
        return true
    end
    if not mr.is_tty("stdin") then
        M.error(("%s needs an answer and there is no terminal; use -a to go on without questions")
            :format(question))
        return nil, 2
    end
    mr.err(("%s [y/N] "):format(question))
    local answer = mr.read_line()
    if answer and answer:lower():match("^%s*y") then
        return true
    end
    M.info("Nothing was changed.")
    return nil, 1
end

--- "3.2 GB", "640 kB", "12 bytes".
---@param bytes number
---@return string
function M.bytes(bytes)
    local units = { "kB", "MB", "GB", "TB" }
    if bytes < 10240 then
        return ("%d bytes"):format(bytes)
    end
    local value, unit = bytes, nil
    for _, name in ipairs(units) do
        value, unit = value / 1024, name
        if value < 1024 then
            break
        end
    end
    return (value < 10 and "%.1f %s" or "%.0f %s"):format(value, unit)
end

--- "85 ms", "3.2 s", "4 min 10 s".
---@param ms number
---@return string
function M.duration(ms)
    if ms < 1000 then
        return ("%d ms"):format(ms)
    elseif ms < 60000 then
        return ("%.1f s"):format(ms / 1000)
    end
    return ("%d min %d s"):format(math.floor(ms / 60000), math.floor(ms / 1000) % 60)
end

---@class Progress
local Progress = {}
Progress.__index = Progress

local PLAIN_EVERY_MS = 10000

--- Progress of several things at once: live lines on a terminal; plain lines at long intervals
--- elsewhere.
---@param options? {off: boolean?, sequential: boolean?}
---@return Progress
function M.progress(options)
    options = options or {}
    return setmetatable({
        keys = {},
        texts = {},
        shown = 0,
        last = {},
        off = options.off or settings.quiet,
        live = mr.is_tty("stderr") and not options.sequential,
        every = options.sequential and 1000 or PLAIN_EVERY_MS,
    }, Progress)
end

function Progress:redraw()
    local width = math.max(mr.term_width(), 20)
    local out = {}
    if self.shown > 0 then
        table.insert(out, ("\27[%dA"):format(self.shown))
    end
    for _, key in ipairs(self.keys) do
        table.insert(out, "\r\27[K" .. self.texts[key]:sub(1, width - 1) .. "\n")
    end
    self.shown = #self.keys
    mr.err(table.concat(out))
end

--- Sets the line of `key`.
---@param key any
---@param text string
function Progress:update(key, text)
    if self.off then
        return
    end
    if not self.texts[key] then
        table.insert(self.keys, key)
    end
    self.texts[key] = text
    local now = mr.clock()
    if self.live then
        if now - (self.drawn or 0) >= 100 then
            self.drawn = now
            self:redraw()
        end
    elseif now - (self.last[key] or 0) >= self.every then
        self.last[key] = now
        mr.err(text .. "\n")
    end
end

--- Draws the last state and leaves the lines where they are.
function Progress:finish()
    if not self.off and self.live and #self.keys > 0 then
        self:redraw()
    end
    self.off = true
end

return M
