--- Command lines: options as a table of descriptions in, values out. Pure; no output, no exit.
---
--- Both `-b 4`, `-b4`, `--batch 4` and `--batch=4` are understood, single letters can be joined
--- (`-ev`), `--` ends the options. Everything that is wrong is one line of text for an exit code of
--- 2.
local merged = require("lib.merged")

local M = {}

---@class Option
---@field key string name in the result
---@field short? string one letter
---@field long? string
---@field arg? string what the value is called in the help; without it the option is a flag
---@field kind? "text"|"int"|"duration"|"size" how the value is read (default "text")
---@field min? number
---@field max? number
---@field default? any
---@field repeatable? boolean values are collected in a list
---@field help string
---@field hidden? boolean

local duration_units = { ms = 1, s = 1000, min = 60000, m = 60000, h = 3600000, d = 86400000 }
local size_units = { [""] = 1, k = 2 ^ 10, M = 2 ^ 20, G = 2 ^ 30, T = 2 ^ 40 }

--- Reads "90s", "5min", "1h", "250ms"; a bare number is seconds. Milliseconds, or nil.
---@param text string
---@return number? ms
function M.duration_ms(text)
    local number, unit = text:match("^(%d+%.?%d*)(%a*)$")
    if not number then
        return nil
    end
    local factor = unit == "" and 1000 or duration_units[unit]
    return factor and tonumber(number) * factor
end

--- Reads "64M", "2GB", "512kB", "1048576". Bytes, or nil.
---@param text string
---@return number? bytes
function M.size_bytes(text)
    local number, unit = text:match("^(%d+%.?%d*)(%a?)i?B?$")
    local factor = unit and (size_units[unit] or (unit == "B" and 1) or (unit == "K" and 1024))
    return factor and tonumber(number) * factor
end

local function whole(text)
    local number = text:match("^%-?%d+$") and tonumber(text)
    return number
end

local readers = {
    text = function(text)
        return text
    end,
    int = whole,
    duration = M.duration_ms,
    size = M.size_bytes,
}

local wanted = {
    int = "a whole number",
    duration = "a time such as 90s, 5min or 1h",
    size = "a size such as 64M or 2GB",
    text = "a value",
}

local function read_value(option, text, name)
    local kind = option.kind or "text"
    local value = readers[kind](text)
    if value == nil then
        return nil, ("option %s wants %s, not '%s'"):format(name, wanted[kind], text)
    end
    if (option.min and value < option.min) or (option.max and value > option.max) then
        local range = option.max and ("from %s to %s"):format(option.min or "-", option.max)
            or ("from %s on"):format(option.min)
        return nil, ("option %s wants a value %s, not '%s'"):format(name, range, text)
    end
    return value
end

local function store(result, option, value)
    if option.repeatable then
        result[option.key] = result[option.key] or {}
        table.insert(result[option.key], value)
    else
        result[option.key] = value
    end
    result.given[option.key] = true
end

local function index(options)
    local by_name = {}
    for _, option in ipairs(options) do
        if option.short then
            by_name["-" .. option.short] = option
        end
        if option.long then
            by_name["--" .. option.long] = option
        end
    end
    return by_name
end

--- A command's own options and others that it shares: each keeps the letters and names that it has
--- not for itself.
---@param own Option[]
---@param shared Option[]
---@return Option[]
function M.joined(own, shared)
    local taken, options = index(own), { unpack(own) }
    for _, option in ipairs(shared) do
        local short = option.short and not taken["-" .. option.short] and option.short or nil
        local long = option.long and not taken["--" .. option.long] and option.long or nil
        if short or long then
            local copy = merged(option)
            copy.short, copy.long = short, long
            table.insert(options, copy)
        end
    end
    return options
end

-- Splits one argument into the option's spelling and the value glued to it.
local function split(argument)
    if argument:sub(1, 2) == "--" then
        local name, value = argument:match("^(%-%-[^=]+)=(.*)$")
        return name or argument, value
    end
    return argument:sub(1, 2), #argument > 2 and argument:sub(3) or nil
end

local function take(result, by_name, argv, i)
    local name, glued = split(argv[i])
    local option = by_name[name]
    if not option then
        return nil, ("unknown option '%s'"):format(name)
    end
    if not option.arg then
        if glued and name:sub(1, 2) == "--" then
            return nil, ("option %s takes no value"):format(name)
        end
        store(result, option, true)
        if glued then
            argv[i] = "-" .. glued
            return i
        end
        return i + 1
    end
    local text = glued or argv[i + 1]
    if text == nil then
        return nil,
            ("option %s wants %s (%s)"):format(name, wanted[option.kind or "text"], option.arg)
    end
    local value, problem = read_value(option, text, name)
    if value == nil then
        return nil, problem
    end
    store(result, option, value)
    return glued and i + 1 or i + 2
end

--- Parses arguments. `result.given[key]` says what was on the command line; defaults fill the rest.
---@param options Option[]
---@param arguments string[]
---@return table? result
---@return string[]|string rest the arguments that are no options, or what is wrong
function M.parse(options, arguments)
    local argv = { unpack(arguments) }
    local by_name = index(options)
    local result, rest = { given = {} }, {}
    local i = 1
    while i <= #argv do
        local argument = argv[i]
        if argument == "--" then
            for j = i + 1, #argv do
                table.insert(rest, argv[j])
            end
            break
        -- The coordinator's content is -1.
        elseif argument:match("^%-%D") then
            local next_i, problem = take(result, by_name, argv, i)
            if not next_i then
                return nil, problem
            end
            i = next_i
        else
            table.insert(rest, argument)
            i = i + 1
        end
    end
    for _, option in ipairs(options) do
        if result[option.key] == nil then
            result[option.key] = option.default
        end
    end
    return result, rest
end

--- The first two options of a group that were given together, for rules such as "-r or -F".
---@param result table
---@param group table<string, string> key -> spelling, as a list of {key, spelling}
---@return string? problem
function M.exclusive(result, group)
    local first
    for _, entry in ipairs(group) do
        if result.given[entry[1]] then
            if first then
                return ("%s and %s cannot be combined"):format(first, entry[2])
            end
            first = entry[2]
        end
    end
    return nil
end

--- What is wrong with a text that somebody answers for: it stands in the journal and in tables.
---@param option string its spelling
---@param text? string nil when it was not given
---@param most integer bytes
---@return string? problem
function M.sentence(option, text, most)
    if text and (not text:find("%S") or #text > most or text:find("%c")) then
        return ("%s wants one line of 1 to %d bytes: who, and why"):format(option, most)
    end
    return nil
end

--- The help text's lines for a list of options.
---@param options Option[]
---@return string[]
function M.describe(options)
    local lines = {}
    for _, option in ipairs(options) do
        if not option.hidden then
            local names = {}
            table.insert(names, option.short and "-" .. option.short or "  ")
            if option.long then
                table.insert(names, "--" .. option.long)
            end
            local left = table.concat(names, option.short and option.long and ", " or "  ")
            left = ("  %s%s"):format(left, option.arg and " " .. option.arg or "")
            if #left > 27 then
                table.insert(lines, left)
                left = ""
            end
            for text in (option.help .. "\n"):gmatch("(.-)\n") do
                table.insert(lines, ("%-28s %s"):format(left, text))
                left = ""
            end
        end
    end
    return lines
end

return M
