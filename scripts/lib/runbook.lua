--- The frame around every runbook: finds it, reads its options, opens the log, turns errors into
--- lines.
---
--- A runbook is a file scripts/NAME.lua that returns a table: summary, usage, description, options,
--- main. Exit codes: 0 done, 1 something failed or was skipped that was asked for, 2 wrong use.
local mr = require("moonrise")
local args = require("lib.args")
local term = require("lib.term")

local M = {}

--- The options every command takes, unless it defines the same letter for itself.
M.common = {
    { key = "datadir", short = "d", arg = "DIR", help = "data directory of the coordinator" },
    { key = "yes", short = "a", help = "do not ask before changing something" },
    { key = "quiet", short = "q", long = "quiet", help = "warnings and errors only" },
    { key = "verbose", short = "v", long = "verbose",
        help = "say more; errors with their traceback" },
    { key = "log_dir", short = "l", long = "log-dir", arg = "DIR",
      help = "where the log file goes (default ~/gpAdminLogs)" },
    { key = "hosts", short = "B", arg = "N", kind = "int", min = 1, max = 64, default = 16,
      help = "hosts worked on at the same time" },
    { key = "batch", short = "b", arg = "N", kind = "int", min = 1, max = 128, default = 64,
      help = "instances per host worked on at the same time" },
    { key = "json", long = "json", help = "the result as JSON on standard output" },
    { key = "dry_run", long = "dry-run", help = "show the plan, change nothing" },
    { key = "help", long = "help", help = "this text" },
}

--- The options of a runbook as it is given on the command line, its own first.
---@param book table
---@return Option[]
function M.options(book)
    return args.joined(book.options or {}, M.common)
end

local function help(name, book)
    local lines = { ("moonrise %s - %s"):format(name, book.summary), "",
                    ("Usage: moonrise %s %s"):format(name, book.usage or "[options]"), "" }
    if book.description then
        table.insert(lines, book.description)
        table.insert(lines, "")
    end
    table.insert(lines, "Options:")
    for _, line in ipairs(args.describe(M.options(book))) do
        table.insert(lines, line)
    end
    if book.examples then
        table.insert(lines, "")
        table.insert(lines, "Examples:")
        table.insert(lines, book.examples)
    end
    return table.concat(lines, "\n")
end

local function user_dir()
    local config = mr.getenv("XDG_CONFIG_HOME") or (mr.whoami().home .. "/.config")
    return config .. "/moonrise/scripts"
end

-- A name becomes part of a path, so it may hold nothing a path could use.
local function find(name)
    if not name:match("^[%w][%w_-]*$") then
        return nil
    end
    for _, dir in ipairs({ user_dir(), mr.scripts_dir }) do
        local path = ("%s/%s.lua"):format(dir, name)
        local stat = mr.stat(path)
        if stat and stat.kind == "file" then
            return path
        end
    end
    return nil
end

local function load_book(path)
    local chunk, problem = loadfile(path)
    if not chunk then
        return nil, mr.error("format", problem)
    end
    local book = chunk()
    if type(book) ~= "table" or type(book.main) ~= "function" then
        return nil, mr.error("format", path .. " does not return a table with a function main")
    end
    return book
end

--- Names and summaries of all runbooks, the user's own before packaged ones of the same name.
---@return {name: string, summary: string}[]
function M.list()
    local seen, found = {}, {}
    for _, dir in ipairs({ user_dir(), mr.scripts_dir }) do
        for _, file in ipairs(mr.list_dir(dir) or {}) do
            local name = file:match("^([%w][%w_-]*)%.lua$")
            if name and not seen[name] then
                seen[name] = true
                local ok, book = pcall(load_book, dir .. "/" .. file)
                table.insert(found,
                    { name = name, summary = ok and book and book.summary or "(does not load)" })
            end
        end
    end
    table.sort(found, function(a, b)
        return a.name < b.name
    end)
    return found
end

local function overview()
    local lines = { "moonrise - recovery engine for mirrored PostgreSQL clusters", "",
                    "Usage: moonrise COMMAND [options]   (moonrise COMMAND --help says more)", "",
                    "Commands:" }
    for _, entry in ipairs(M.list()) do
        table.insert(lines, ("  %-16s %s"):format(entry.name, entry.summary))
    end
    table.insert(lines,
        ("  %-16s %s"):format("run", "run a runbook of your own: moonrise run FILE.lua"))
    return table.concat(lines, "\n")
end

-- Without a log where nobody asked for one; a directory that somebody names has to do.
local function log_path(options, name)
    local dir = options.log_dir or (mr.whoami().home .. "/gpAdminLogs")
    local path = ("%s/%s_%s.log"):format(dir, name, os.date("%Y%m%d"))
    local ok, err = mr.make_dir(dir)
    if ok then
        ok, err = mr.append_file(path, "")
    end
    if not ok then
        return nil, options.log_dir and ("no log can be written to %s: %s"):format(dir, err.message)
    end
    return path
end

local function wrong_use(name, problem)
    mr.err(("moonrise %s: %s\nTry: moonrise %s --help\n"):format(name, problem, name))
    return 2
end

local function report(err, verbose)
    if type(err) == "table" then
        term.error(err)
        if verbose and err.traceback then
            mr.err(err.traceback .. "\n")
        end
        return err.code == "usage" and 2 or 1
    end
    local text = tostring(err)
    if not verbose then
        text = text:match("^[^\n]*")
    end
    term.error(text)
    return 1
end

local function on_error(err)
    if type(err) == "table" then
        if not err.traceback then
            pcall(rawset, err, "traceback", debug.traceback("", 2))
        end
        return err
    end
    return debug.traceback(tostring(err), 2)
end

--- Runs a loaded runbook with its arguments.
---@param name string
---@param book table
---@param argv string[]
---@param invoked? string the gp name it was started under
---@return integer exit_code
function M.run(name, book, argv, invoked)
    local options, rest = args.parse(M.options(book), argv)
    if not options then
        return wrong_use(name, rest)
    end
    if options.help then
        mr.out(help(name, book) .. "\n")
        return 0
    end
    if #rest > (book.arguments or 0) then
        return wrong_use(name, ("unexpected argument '%s'"):format(rest[(book.arguments or 0) + 1]))
    end
    local problem = book.check and book.check(options, rest)
    if problem then
        return wrong_use(name, problem)
    end
    local path
    if book.log ~= false then
        path, problem = log_path(options, invoked or name)
        if problem then
            return wrong_use(name, problem)
        end
    end
    term.setup({
        program = invoked or name, gp = invoked ~= nil, quiet = options.quiet,
        verbose = options.verbose, json = options.json,
        log_path = path,
    })
    options.program = invoked or ("moonrise " .. name)
    options.argv = argv
    local ok, result, err = xpcall(book.main, on_error, options, rest)
    if not ok then
        return report(result, options.verbose)
    elseif result == nil then
        return err and report(err, options.verbose) or 0
    end
    return result
end

--- Entry of the program: finds runbook `name` and runs it.
---@param name? string
---@param argv string[]
---@param invoked? string
---@return integer exit_code
function M.start(name, argv, invoked)
    if not name or name == "help" or name == "--help" or name == "-h" then
        mr.out(overview() .. "\n")
        return name and 0 or 2
    end
    local path
    if name == "run" then
        path = table.remove(argv, 1)
        if not path or path == "--help" then
            mr.err("Usage: moonrise run FILE.lua [arguments]\n")
            return path and 0 or 2
        end
        name = path:match("([^/]+)%.lua$") or path
    else
        path = find(name)
    end
    if not path then
        mr.err(("moonrise: there is no command '%s'\nTry: moonrise --help\n"):format(name))
        return 2
    end
    local ok, book, err = pcall(load_book, path)
    if not ok or not book then
        term.error(ok and err or tostring(book))
        return 1
    end
    return M.run(name, book, argv, invoked)
end

return M
