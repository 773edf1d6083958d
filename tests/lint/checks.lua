--- The checks of the sources. Each takes the tree and returns the problems it found, as
--- "file:line: what".

local c_source = require("tests.lint.c_source")
local lua_source = require("tests.lint.lua_source")
local rules = require("tests.lint.rules")
local tree_of = require("tests.lint.tree")

local M = {}

local c_files = { "%.[ch]$" }
local lua_files = { "%.lua$" }
local long_files = { "%.[ch]$", "%.lua$", "%.sql$", "^Makefile$", "^tests/[^.]+$" }
local wide_files = { "%.lua$", "%.sql$", "^Makefile$", "^tests/[^.]+$" }
local own_files = { "^engine/", "^include/", "^scripts/", "^policies/", "^tests/", "^Makefile$" }
local engine_files = { "^engine/.*%.[ch]$", "^include/moonrise/.*%.h$" }

local function report(problems, name, line, format, ...)
    problems[#problems + 1] = name .. ":" .. line .. ": " .. format:format(...)
end

-- "pg/control" of engine/pg/control.c and of include/moonrise/pg/control.h, and its folder "pg".
local function place_of(name)
    local place = name:gsub("%.[ch]$", ""):match("^engine/(.+)$") or
        name:gsub("%.[ch]$", ""):match("^include/moonrise/(.+)$")
    return place, place and place:match("^[^/]+")
end

local function may_include(folder, other)
    local allowed = rules.arrows[folder]
    if allowed == "all" or folder == other then
        return true
    end
    for _, name in ipairs(allowed or {}) do
        if name == other then
            return true
        end
    end
    return false
end

local function check_include(problems, name, include)
    local _, folder = place_of(name)
    local other = include.file:match("^moonrise/([^/]+)/")
    if other and not rules.arrows[other] then
        report(problems, name, include.line, "there is no folder %s", other)
    elseif other and not may_include(folder, other) then
        report(problems, name, include.line, "%s may not include %s", folder, other)
    elseif not other and not include.system and include.file:find("/") then
        report(problems, name, include.line,
            "%s: what another folder may use is in include/moonrise", include.file)
    end
end

--- Arrows between the folders point down only.
function M.include_direction(tree)
    local problems = {}
    for _, name in ipairs(tree:match(unpack(engine_files))) do
        local _, folder = place_of(name)
        if not rules.arrows[folder] then
            report(problems, name, 1, "there is no folder %s", folder)
        else
            for _, include in ipairs(c_source.includes(tree:text(name))) do
                check_include(problems, name, include)
            end
        end
    end
    return problems
end

local function is_at(name, places)
    local place, folder = place_of(name)
    for _, allowed in ipairs(places) do
        if place == allowed or folder == allowed then
            return true
        end
    end
    return false
end

--- Each library is known to one folder.
function M.foreign_headers(tree)
    local problems = {}
    for _, name in ipairs(tree:match(unpack(engine_files))) do
        for _, include in ipairs(c_source.includes(tree:text(name))) do
            for _, header in ipairs(rules.headers) do
                if include.file:match(header.pattern) and not is_at(name, header.places) then
                    report(problems, name, include.line, "%s belongs to engine/%s", header.name,
                        table.concat(header.places, ", engine/"))
                end
            end
        end
    end
    return problems
end

--- Only cli ends the process.
function M.exits(tree)
    local problems = {}
    for _, name in ipairs(tree:match("^engine/.*%.c$")) do
        local line = 0
        for text in (c_source.strip(tree:text(name)) .. "\n"):gmatch("(.-)\n") do
            line = line + 1
            if text:match("%f[%w_]exit%s*%(") and not name:match("^engine/cli/") then
                report(problems, name, line, "only engine/cli ends the process")
            end
        end
    end
    return problems
end

function M.file_length(tree)
    local problems = {}
    for _, name in ipairs(tree:match(unpack(long_files))) do
        local count = #tree:lines(name)
        if count > rules.file_lines then
            report(problems, name, count, "%d lines, the limit is %d", count, rules.file_lines)
        end
    end
    local readme = tree:match("^README%.md$")[1]
    if readme and #tree:lines(readme) > rules.readme_lines then
        report(problems, readme, 1, "%d lines, the limit is %d", #tree:lines(readme),
            rules.readme_lines)
    end
    return problems
end

--- Nothing is wider than a page, but for annotations: LuaLS wants each on one line. C is
--- clang-format's business.
function M.width(tree)
    local problems = {}
    for _, name in ipairs(tree:match(unpack(wide_files))) do
        for number, line in ipairs(tree:lines(name)) do
            local columns = select(2, line:gsub("[^\128-\191]", ""))
            if columns > rules.columns and not line:match("^%s*%-%-%-@") then
                report(problems, name, number, "%d columns, the limit is %d", columns,
                    rules.columns)
            end
        end
    end
    return problems
end

function M.c_functions(tree)
    local problems = {}
    for _, name in ipairs(tree:match(unpack(c_files))) do
        for _, fn in ipairs(c_source.functions(tree:text(name))) do
            if fn.length > rules.c_function_lines then
                report(problems, name, fn.line, "%s has %d lines, the limit is %d", fn.name,
                    fn.length, rules.c_function_lines)
            end
            if fn.parameters > rules.parameters and not rules.callbacks[fn.name] then
                report(problems, name, fn.line, "%s has %d parameters, the limit is %d", fn.name,
                    fn.parameters, rules.parameters)
            end
            if not fn.own_line then
                report(problems, name, fn.line, "the return type of %s stands on a line of its own",
                    fn.name)
            end
        end
    end
    return problems
end

function M.lua_functions(tree)
    local problems = {}
    for _, name in ipairs(tree:match(unpack(lua_files))) do
        for _, fn in ipairs(lua_source.functions(tree:text(name))) do
            local label = fn.name or "a function"
            if (fn.length or 0) > rules.lua_function_lines and not rules.groups[fn.called] then
                report(problems, name, fn.line, "%s has %d lines, the limit is %d", label,
                    fn.length, rules.lua_function_lines)
            end
            if fn.parameters > rules.parameters then
                report(problems, name, fn.line, "%s has %d parameters, the limit is %d", label,
                    fn.parameters, rules.parameters)
            end
        end
    end
    return problems
end

--- The state machine and the guards compute and do nothing else, or nobody could simulate them.
function M.pure_files(tree)
    local problems, impure = {}, {}
    for _, word in ipairs(rules.impure) do
        impure[word] = true
    end
    for _, pure in ipairs(rules.pure) do
        for _, name in ipairs(tree:match("^" .. pure:gsub("%p", "%%%0") .. "$")) do
            local text = tree:text(name)
            lua_source.each_word(text, function(word, at)
                local before = text:sub(at - 1, at - 1)
                if impure[word] and (before ~= "." or word:match("^random")) then
                    local line = 1 + select(2, text:sub(1, at):gsub("\n", ""))
                    report(problems, name, line, "%s has no place in a pure file", word)
                end
            end)
            if text:match("require%(?[\"']moonrise[\"']") then
                report(problems, name, 1, "the engine has no place in a pure file")
            end
        end
    end
    return problems
end

--- Only what the reader expects stands at the top.
function M.top_level(tree)
    local problems = {}
    for _, name in ipairs(tree:top()) do
        if not rules.top[name] and not name:match("^%.") then
            report(problems, name, 1, "does not belong to the top level")
        end
    end
    return problems
end

local function naps_allowed(name)
    for _, pattern in ipairs(rules.naps) do
        if name:match(pattern) then
            return true
        end
    end
    return false
end

--- Tests wait for conditions, never for time to pass.
function M.naps(tree)
    local problems = {}
    for _, name in ipairs(tree:match("^tests/")) do
        for number, line in ipairs(naps_allowed(name) and {} or tree:lines(name)) do
            for word in line:gmatch("%f[%w_]([%a_]*sle[e]p)[ (\"]") do
                if word:match("^u?sl") or word:match("^nanosl") then
                    report(problems, name, number, "waits for time to pass; wait for a condition")
                end
            end
        end
    end
    return problems
end

--- `ok, err = ok and f(), err` takes only the first of f's results, and loses its error.
function M.lost_errors(tree)
    local problems = {}
    for _, name in ipairs(tree:match(unpack(lua_files))) do
        for number, line in ipairs(tree:lines(name)) do
            if line:match("^[%w_ ]+, ([%w_]+) = [^(]* and .*%), %1$") then
                report(problems, name, number, "the error of a call after `and` is lost")
            end
        end
    end
    return problems
end

--- Nothing is left for later without an issue.
function M.unfinished(tree)
    local problems = {}
    local marks = { "TO" .. "DO", "FIX" .. "ME", "X" .. "XX", "HA" .. "CK" }
    for _, name in ipairs(tree:match(unpack(own_files))) do
        for number, line in ipairs(tree:lines(name)) do
            for _, mark in ipairs(marks) do
                if line:match("%f[%w]" .. mark .. "%f[%W]") then
                    report(problems, name, number, "%s: unfinished", mark)
                end
            end
        end
    end
    return problems
end

--- No variable outlives a call and changes; asked of the symbols of what was built.
---@param tree table
---@param program string path of an executable or object file
---@return string[] problems
function M.globals(tree, program)
    local problems = {}
    local symbols, ok = tree_of.shell(tree.root, "objdump -t " .. tree_of.quote(program))
    if not ok then
        return { symbols }
    end
    for section, name in symbols:gmatch(" (%.[%w_.]+)\t%x+%s+([^\n]+)") do
        local mutable = section:match("^%.t?bss") or section:match("^%.t?data")
        -- Sections, the linker's marks, the compiler's start-up objects, and what a library owns.
        local foreign = name:match("^[._]") or name:match("^completed%.") or name:match("[@ ]") or
            name:match("^data_start") or name == "edata"
        if mutable and not section:match("^%.data%.rel%.ro") and not foreign and
            not rules.globals[name] then
            problems[#problems + 1] = name .. ": a variable that outlives a call and may change"
        end
    end
    return problems
end

-- Runs a tool over files; its whole output is the problem.
local function tool(tree, command, files)
    if #files == 0 then
        return {}
    end
    local quoted = {}
    for index, name in ipairs(files) do
        quoted[index] = tree_of.quote(name)
    end
    local output, ok = tree_of.shell(tree.root, command .. " " .. table.concat(quoted, " "))
    return ok and {} or { (output:gsub("%s+$", "")) }
end

function M.clang_format(tree)
    return tool(tree, "clang-format --dry-run -Werror", tree:match(unpack(c_files)))
end

function M.luacheck(tree)
    local files = tree:match(unpack(lua_files))
    return tool(tree, "luacheck --quiet --no-cache --no-color --codes", files)
end

return M
