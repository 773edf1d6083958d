--- What the checks need to know of C, for sources that clang-format has laid out: there a
--- function's body is all that stands between a line `{` and the next line `}`.

local M = {}

-- Where the comment or literal that begins at `start` ends; `start` itself for a mere slash.
local function end_of_literal(text, start)
    local two = text:sub(start, start + 1)
    if two == "/*" then
        return select(2, text:find("*/", start + 2, true)) or #text
    elseif two == "//" then
        return (text:find("\n", start, true) or #text + 1) - 1
    elseif two:sub(1, 1) == "/" then
        return start
    end
    local stop = start + 1
    while stop <= #text and text:sub(stop, stop) ~= two:sub(1, 1) do
        stop = stop + (text:sub(stop, stop) == "\\" and 2 or 1)
    end
    return math.min(stop, #text)
end

--- The text with comments and the insides of literals blanked; line breaks stay where they are.
---@param text string
---@return string
function M.strip(text)
    local out, at = {}, 1
    local function blank(part)
        out[#out + 1] = part:gsub("[^\n]", " ")
    end
    while at <= #text do
        local start = text:find("[/\"']", at)
        if not start then
            break
        end
        out[#out + 1] = text:sub(at, start - 1)
        local stop = end_of_literal(text, start)
        blank(text:sub(start, stop))
        at = stop + 1
    end
    out[#out + 1] = text:sub(at)
    return table.concat(out)
end

--- How many parameters a parenthesised list has.
---@param list string "(int a, void (*fn)(int, int))"
---@return integer
function M.count_parameters(list)
    local inner = list:sub(2, -2)
    if inner:match("^%s*$") or inner:match("^%s*void%s*$") then
        return 0
    end
    local flat = inner:gsub("%b()", "")
    return select(2, flat:gsub(",", "")) + 1
end

-- The lines above `{` up to the end of what stands before: the head of the function.
local function head_of(lines, open)
    local first = open
    while first > 1 and not lines[first - 1]:match("^%s*$") and
        not lines[first - 1]:match("[;}]%s*$") and not lines[first - 1]:match("^#") do
        first = first - 1
    end
    return first, table.concat(lines, "\n", first, open - 1)
end

local function lines_of(text)
    local lines = {}
    for line in (text .. "\n"):gmatch("(.-)\n") do
        lines[#lines + 1] = line
    end
    return lines
end

--- The functions that a source defines.
---@param text string
---@return {name: string, line: integer, length: integer, parameters: integer}[]
function M.functions(text)
    local lines, found = lines_of(M.strip(text)), {}
    for number, line in ipairs(lines) do
        if line == "{" then
            local first, head = head_of(lines, number)
            local close = number
            while close < #lines and lines[close] ~= "}" do
                close = close + 1
            end
            local name, list = head:match("\n([%a_][%w_]*)(%b())[^()]*$")
            if not name then
                name, list = head:match("([%a_][%w_]*)(%b())[^()]*$")
            end
            if name then
                found[#found + 1] = {
                    name = name,
                    line = first,
                    length = close - first + 1,
                    parameters = M.count_parameters(list),
                    own_line = lines[number - 1] ~= nil and head:match("\n" .. name .. "%(") ~= nil,
                }
            end
        end
    end
    return found
end

--- The includes of a source: {line, file, system}.
---@param text string
---@return {line: integer, file: string, system: boolean}[]
function M.includes(text)
    local found = {}
    for number, line in ipairs(lines_of(text)) do
        local open, file = line:match('^%s*#%s*include%s*([<"])([^>"]+)')
        if file then
            found[#found + 1] = { line = number, file = file, system = open == "<" }
        end
    end
    return found
end

return M
