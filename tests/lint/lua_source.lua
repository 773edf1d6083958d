--- What the checks need to know of Lua: where functions begin and end, without running anything.

local M = {}

local opens = { ["function"] = true, ["if"] = true, ["do"] = true, ["repeat"] = true }
local closes = { ["end"] = true, ["until"] = true }

-- The position after a long bracket or a quoted text that starts at `at`, or nil.
local function skip_text(text, at)
    local level = text:match("^%[(=*)%[", at)
    if level then
        local _, stop = text:find("]" .. level .. "]", at, true)
        return (stop or #text) + 1
    end
    local quote = text:match("^[\"']", at)
    if not quote then
        return nil
    end
    at = at + 1
    while at <= #text and text:sub(at, at) ~= quote do
        at = at + (text:sub(at, at) == "\\" and 2 or 1)
    end
    return at + 1
end

local function skip_comment(text, at)
    if text:sub(at, at + 1) ~= "--" then
        return nil
    end
    if text:match("^%[=*%[", at + 2) then
        return skip_text(text, at + 2)
    end
    return (text:find("\n", at, true) or #text + 1)
end

--- Calls fn(word, position) for each name and keyword outside of comments and literals.
---@param text string
---@param fn fun(word: string, at: integer)
function M.each_word(text, fn)
    local at = 1
    while at <= #text do
        local after = skip_comment(text, at) or skip_text(text, at)
        local word = not after and text:match("^[%a_][%w_]*", at)
        if word then
            fn(word, at)
            after = at + #word
        end
        at = after or at + 1
    end
end

--- The text with comments and literals blanked; line breaks stay where they are.
---@param text string
---@return string
function M.strip(text)
    local out, at = {}, 1
    while at <= #text do
        local after = skip_comment(text, at) or skip_text(text, at)
        out[#out + 1] = after and text:sub(at, after - 1):gsub("[^\n]", " ") or text:sub(at, at)
        at = after or at + 1
    end
    return table.concat(out)
end

local function line_counter(text)
    local at, line = 1, 1
    return function(position)
        line = line + select(2, text:sub(at, position - 1):gsub("\n", ""))
        at = position
        return line
    end
end

local function describe(text, at)
    local before = text:sub(math.max(1, at - 200), at - 1):match("[^\n]*$")
    local name, list = text:match("^function%s*([%w_.:]*)%s*(%b())", at)
    local parameters = 0
    if list and list:match("%S", 2) ~= ")" then
        parameters = select(2, list:gsub(",", "")) + 1
    end
    local assigned = before:match("([%w_.]+)%s*=%s*$")
    local called = before:match("([%w_.]+)%(.*$")
    return { name = name ~= "" and name or assigned, called = called, parameters = parameters }
end

--- The functions of a chunk, inner ones too: name (or what it was assigned to), `called` the
--- function whose argument it is, the line it begins in, its length in lines, its parameters.
---@param text string
---@return {name: string?, called: string?, line: integer, length: integer, parameters: integer}[]
function M.functions(text)
    local stack, found, line_at = {}, {}, line_counter(text)
    M.each_word(text, function(word, at)
        if opens[word] then
            local item = { word = word, line = line_at(at) }
            if word == "function" then
                item.fn = describe(text, at)
                item.fn.line = item.line
                found[#found + 1] = item.fn
            end
            stack[#stack + 1] = item
        elseif closes[word] then
            local item = table.remove(stack)
            if item and item.fn then
                item.fn.length = line_at(at) - item.line + 1
            end
        end
    end)
    return found
end

return M
