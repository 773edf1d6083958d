--- Holds the annotations (scripts/meta) against the names that scripts can reach.

local M = {}

--- Names that a file of annotations declares: fields of the module, and methods by class.
---@param text string
---@return table<string, boolean> names "connect", "Conn:query"
function M.annotated(text)
    local names = {}
    for line in text:gmatch("[^\n]+") do
        local class, method = line:match("^function ([%a_][%w_]*):([%a_][%w_]*)%(")
        local name = line:match("^function mr%.([%a_][%w_]*)%(") or
            line:match("^mr%.([%a_][%w_]*) =")
        if class then
            names[class .. ":" .. method] = true
        elseif name then
            names[name] = true
        end
    end
    return names
end

--- Names that the module has. `mr._classes()` tells the methods of its objects:
--- {Conn = {"query", ...}, ...}.
--- Names that begin with an underscore are between the engine and its own frame.
---@param mr table
---@return table<string, boolean>? names
---@return string? problem
function M.bound(mr)
    if type(mr._classes) ~= "function" then
        return nil, "the module has no _classes(), so its methods cannot be seen"
    end
    local names = {}
    for name in pairs(mr) do
        if not name:match("^_") then
            names[name] = true
        end
    end
    for class, methods in pairs(mr._classes()) do
        for key, value in pairs(methods) do
            local method = type(key) == "number" and value or key
            if not method:match("^_") then
                names[class .. ":" .. method] = true
            end
        end
    end
    return names
end

--- What is in one and not in the other, sorted.
---@param annotated table<string, boolean>
---@param bound table<string, boolean>
---@return string[] problems
function M.compare(annotated, bound)
    local problems = {}
    for name in pairs(bound) do
        if not annotated[name] then
            problems[#problems + 1] = name .. " is reachable and not annotated"
        end
    end
    for name in pairs(annotated) do
        if not bound[name] then
            problems[#problems + 1] = name .. " is annotated and does not exist"
        end
    end
    table.sort(problems)
    return problems
end

--- The check itself, on the module that was built.
---@param tree table
---@param build string directory with moonrise.so
---@return string[] problems
function M.check(tree, build)
    package.cpath = build .. "/?.so;" .. package.cpath
    local ok, mr = pcall(require, "moonrise")
    if not ok then
        return { "moonrise.so does not load: " .. tostring(mr) }
    end
    local bound, problem = M.bound(mr)
    if not bound then
        return { problem }
    end
    local texts = {}
    for _, name in ipairs(tree:match("^scripts/meta/")) do
        table.insert(texts, tree:text(name))
    end
    return M.compare(M.annotated(table.concat(texts, "\n")), bound)
end

return M
